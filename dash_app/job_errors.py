"""Errors on their way from a background callback's thread to the page, with their types."""

from __future__ import annotations

import json
import logging

from analysis import errors
from analysis.errors import AnalysisError, WorkerStoppedError
from dash_app.ops.requests import request_id

_log = logging.getLogger("stratascope.jobs")
_MARK = "typed:"


def forgotten() -> AnalysisError:
    """Why there is no result of a job that nobody here knows."""
    return WorkerStoppedError("The server was restarted while it worked on this.", "Run it again.")


def shutting_down() -> AnalysisError:
    """Why a job is not begun, or not finished."""
    return WorkerStoppedError(
        "The server is shutting down.", "Nothing you typed is lost: run it again in a moment."
    )


def failure(error: Exception) -> str:
    """An error as the JSON that Dash takes for one; a defect also goes to the log."""
    if not isinstance(error, AnalysisError):
        found = request_id()
        _log.error(
            "a background callback failed", exc_info=error, extra={"event": {"request": found}}
        )
        error = AnalysisError(
            "Something went wrong on the server.",
            f"Nothing you typed is lost. Try again; the log has the details under {found}.",
        )
    said = json.dumps([type(error).__name__, error.message, error.hint])
    return json.dumps({"background_callback_error": {"msg": _MARK + said, "tb": ""}})


def typed(error: BaseException) -> BaseException:
    """The error that a background callback really raised, out of what Dash made of it.

    Dash hands an app's error handler a text; this finds the ``AnalysisError`` in
    it. Any other exception is given back as it is.
    """
    _, found, said = str(error).partition(_MARK)
    if isinstance(error, AnalysisError) or not found:
        return error
    try:
        name, message, hint = json.loads(said.strip())
    except ValueError:
        return error
    kind = getattr(errors, name, AnalysisError)
    return kind(message, hint) if issubclass(kind, AnalysisError) else error
