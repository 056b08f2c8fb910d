"""What went wrong, for a person: a sentence, what to try, an id to find it in the log."""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass

from analysis.errors import AnalysisError
from dash_app.job_errors import typed

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
    request = secrets.token_hex(3)
    error = typed(error)
    if isinstance(error, AnalysisError):
        log.warning("request %s: %s: %s", request, type(error).__name__, error)
        return Trouble(error.message, error.hint, request)
    log.error("request %s failed", request, exc_info=error)
    return Trouble(
        "Something went wrong on the server.",
        "Nothing you typed is lost. Try again; if it happens again, the log has the details"
        " under this id.",
        request,
    )
