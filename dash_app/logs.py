"""The server's log: one line per event, with the request's id; no prompts, no secrets."""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
from contextvars import ContextVar
from typing import Any

from analysis import log_lines
from dash_app.settings import Settings

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


_events = logging.getLogger("stratascope.events")


def configure(settings: Settings) -> None:
    """Write the log to standard error, in the form that the settings name."""
    lines = log_lines.lines_for(settings.log_format, current_request.get)
    log_lines.handle(logging.INFO, lines)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    # A person at a terminal wants to know of trouble, not of every click.
    is_text = isinstance(lines, log_lines.TextLines)
    _events.setLevel(logging.WARNING if is_text else logging.INFO)


def log_event(what: str, **fields: Any) -> None:
    """One thing that happened, and its fields."""
    _events.info(what, extra={"event": fields})


def hashed(name: str) -> str:
    """A user's name as the log has it unless told otherwise: always the same, and not the name."""
    return hashlib.sha256(f"stratascope user {name}".encode()).hexdigest()[:12] if name else ""
