"""Errors as a person reads them: what happened, what to try, and an id to find it in the log."""

from __future__ import annotations

import json
import logging
import re
from contextvars import ContextVar
from dataclasses import dataclass

from analysis import errors
from analysis.errors import AnalysisError, WorkerStoppedError
from dash_app.monitoring import request_id

log = logging.getLogger("stratascope")

_HINT = "Your prompt is not lost. Try again. If it happens again, look for {} in the server's log."
#: Message and hint of a defect of the program, shown beside the request's id.
DEFECT = ("Something went wrong on the server.", _HINT.format("this id"))


@dataclass(frozen=True, slots=True)
class Problem:
    """An error ready to be shown, without a stack trace.

    Attributes:
        message: What happened.
        hint: What to try.
        request: The id under which the log has the details.
    """

    message: str
    hint: str
    request: str


#: How many errors were explained in this context: what was drawn meanwhile shows an error.
explained: ContextVar[int] = ContextVar("explained", default=0)


def explain(error: BaseException) -> Problem:
    """Turn an exception into words, and log it under the same id.

    An ``AnalysisError`` has a message for the user. Any other exception is a defect: the page shows
    no details, and the log has the stack trace.
    """
    request = request_id()
    explained.set(explained.get() + 1)
    error = original_error(error)
    if isinstance(error, AnalysisError):
        log.warning("%s: %s", type(error).__name__, error, extra={"event": {"request": request}})
        return Problem(without_folders(error.message), without_folders(error.hint), request)
    log.error("a defect", exc_info=error, extra={"event": {"request": request}})
    return Problem(*DEFECT, request)


#: An absolute path with at least one folder; not a part of an address or of a relative path.
_PATH = re.compile(r"(?<![\w:/.~])/(?:[^\s/'\"()]+/)+([^\s/'\"()]*)")


def without_folders(text: str) -> str:
    """A message without the folders of its paths: the log names them, the page need not."""
    return _PATH.sub(r"\1", text)


_MARK = "typed:"


def forgotten() -> AnalysisError:
    """The error of a job that this server does not know."""
    return WorkerStoppedError(
        "The server was restarted while it worked on this request.", "Run it again."
    )


def shutting_down() -> AnalysisError:
    """The error of a job that the server can't start or finish because it stops."""
    return WorkerStoppedError(
        "The server is shutting down.", "Your prompt is not lost. Run it again in a moment."
    )


def failure(error: Exception) -> str:
    """An error as the JSON that Dash expects of a failed background callback.

    A defect is also logged.
    """
    if not isinstance(error, AnalysisError):
        request = request_id()
        log.error(
            "a background callback failed", exc_info=error, extra={"event": {"request": request}}
        )
        error = AnalysisError(DEFECT[0], _HINT.format(request))
    content = json.dumps([type(error).__name__, error.message, error.hint])
    return json.dumps({"background_callback_error": {"msg": _MARK + content, "tb": ""}})


def original_error(error: BaseException) -> BaseException:
    """The error that a background callback raised.

    Dash passes the app's error handler an exception with a text; this rebuilds the
    ``AnalysisError`` from that text. Any other exception is returned as it is.
    """
    _, found, content = str(error).partition(_MARK)
    if isinstance(error, AnalysisError) or not found:
        return error
    try:
        name, message, hint = json.loads(content.strip())
    except ValueError:
        return error
    return errors.rebuild(name, message, hint)
