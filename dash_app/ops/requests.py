"""The id of the request that is answered: in the log, in the answer, in the page's errors."""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar

#: What a proxy may name a request; anything else is left out of the log.
_WELL_FORMED = re.compile(r"[A-Za-z0-9_-]{8,64}")
#: Short enough to be read out, long enough to be found in a day's log.
_BYTES = 4

current_request: ContextVar[str] = ContextVar("stratascope_request", default="")


def begin(named: str | None) -> str:
    """Start a request: the id that a proxy gave it, if that is well-formed, else a new one."""
    chosen = named if named and _WELL_FORMED.fullmatch(named) else secrets.token_hex(_BYTES)
    current_request.set(chosen)
    return chosen


def end(_error: BaseException | None = None) -> None:
    """The request is answered: its id stands for nothing that this thread does after it."""
    current_request.set("")


def request_id() -> str:
    """The id of the request at hand; a new one outside of any."""
    return current_request.get() or secrets.token_hex(_BYTES)
