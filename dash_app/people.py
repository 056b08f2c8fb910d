"""Whose turn it is in the queue: a user who signed in, or a page load."""

from __future__ import annotations

import hashlib

_USER = "user:"


def user_key(name: str) -> str:
    """How the queue knows a user; empty for nobody."""
    return f"{_USER}{name}" if name else ""


def name_of(user: str) -> str:
    """The name in ``user_key``; empty for a page load."""
    return user.removeprefix(_USER) if user.startswith(_USER) else ""


def page_key(text: str) -> str:
    """How the queue knows a page load or an address: a name that tells nobody what it was."""
    return hashlib.sha256(text.encode()).hexdigest()[:16] if text else ""


def tag(user: str) -> str:
    """What stands at the end of a job's id to say whose it is; a signature keeps it there."""
    return hashlib.sha256(f"job of {user}".encode()).hexdigest()[:8]
