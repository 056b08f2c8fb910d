"""What went wrong, for a person: a sentence, what to try, an id to find it in the log."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from analysis.errors import AnalysisError
from dash_app.job_errors import typed
from dash_app.ops.requests import request_id

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
