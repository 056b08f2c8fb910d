"""How requests and users are named in the queue, in job handles and in the log; and the log itself.

The log has one line per event, with the request's id. It never holds a prompt or a secret.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
from contextvars import ContextVar
from typing import Any

from analysis import log_lines
from dash_app.settings import Settings

#: An id that a proxy may give a request; anything else is ignored.
_WELL_FORMED = re.compile(r"[A-Za-z0-9_-]{8,64}")
#: Short enough to be read aloud, long enough to be found in a day's log.
_ID_BYTES = 4
_USER = "user:"

current_request: ContextVar[str] = ContextVar("stratascope_request", default="")


def begin(given: str | None) -> str:
    """Start a request: take the id that a proxy gave it if it is well-formed, else make one."""
    chosen = given if given and _WELL_FORMED.fullmatch(given) else secrets.token_hex(_ID_BYTES)
    current_request.set(chosen)
    return chosen


def end(_error: BaseException | None = None) -> None:
    """End the request: its id must not name anything that this thread does later."""
    current_request.set("")


def request_id() -> str:
    """The id of the current request; a new one outside of any request."""
    return current_request.get() or secrets.token_hex(_ID_BYTES)


_events = logging.getLogger("stratascope.events")


def configure(settings: Settings) -> None:
    """Write the log to standard error, in the format of the settings."""
    lines = log_lines.lines_for(settings.log_format, current_request.get)
    log_lines.handle(logging.INFO, lines)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    # At a terminal, log problems only, not every click.
    is_text = isinstance(lines, log_lines.TextLines)
    _events.setLevel(logging.WARNING if is_text else logging.INFO)


def log_event(what: str, **fields: Any) -> None:
    """Log one event and its fields."""
    _events.info(what, extra={"event": fields})


def user_key(name: str) -> str:
    """The queue's key of a signed-in user; empty for an empty name."""
    return f"{_USER}{name}" if name else ""


def page_key(text: str) -> str:
    """The queue's key of a page load or an address: a hash that does not reveal it."""
    return hashlib.sha256(text.encode()).hexdigest()[:16] if text else ""


def owner_tag(user: str) -> str:
    """The end of a job's id, which names its owner; Dash's signature protects it."""
    return hashlib.sha256(f"job of {user}".encode()).hexdigest()[:8]


def hashed(name: str) -> str:
    """A user's name as the log shows it by default: a constant hash."""
    return hashlib.sha256(f"stratascope user {name}".encode()).hexdigest()[:12] if name else ""


def logged_user(settings: Settings, user: str) -> str:
    """A key of the queue as the log shows it: the user's name, its hash, or a page's key."""
    if not user.startswith(_USER):
        return user
    name = user.removeprefix(_USER)
    return name if settings.log_users == "name" else hashed(name)
