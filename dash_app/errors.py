"""What went wrong, for a person: a sentence, what to try, an id to find it in the log."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

from analysis import errors
from analysis.errors import AnalysisError, WorkerStoppedError
from dash_app.logs import request_id

log = logging.getLogger("stratascope")


@dataclass(frozen=True, slots=True)
class Trouble:
    """An error ready to be shown: no trace, nothing that only a programmer reads."""

    message: str
    hint: str
    request: str


def explain(error: BaseException) -> Trouble:
    """Turn any exception into words, and write it to the log under the same id.

    What we foresaw (``AnalysisError``) speaks for itself. Anything else is a defect: the page says
    so without detail, and the log has the trace.
    """
    request = request_id()
    error = typed(error)
    if isinstance(error, AnalysisError):
        log.warning("%s: %s", type(error).__name__, error, extra={"event": {"request": request}})
        return Trouble(error.message, error.hint, request)
    log.error("a defect", exc_info=error, extra={"event": {"request": request}})
    return Trouble(
        "Something went wrong on the server.",
        "Nothing you typed is lost. Try again; if it happens again, the log has the details"
        " under this id.",
        request,
    )


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
        log.error(
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
    return errors.rebuild(name, message, hint)
