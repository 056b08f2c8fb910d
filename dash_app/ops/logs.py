"""The server's log: one line for each computation, refusal and sign-in; no prompts, no secrets."""

from __future__ import annotations

import hashlib
import logging
from typing import Any

from analysis import log_lines
from dash_app.ops.requests import current_request
from dash_app.settings import Settings

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
