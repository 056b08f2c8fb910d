"""Sessions: a signed cookie that says who signed in, and a list of those that were ended.

The cookie is Flask's: signed with the server's key and stamped, so that it can be neither made up
nor used after ``STRATASCOPE_SESSION_HOURS``. It holds the user's name, a number of the session
made at sign-in (whatever session there was before is dropped), and a mark of the password's hash:
a new password, or the user's removal, ends every session. Signing out ends the one at hand, also
for who has a copy of its cookie.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from flask import Flask, g, session
from flask.sessions import SecureCookieSessionInterface

from dash_app.security.users import Users
from dash_app.settings import Settings

COOKIE = "stratascope"
_log = logging.getLogger("stratascope.sessions")


class _Cookies(SecureCookieSessionInterface):
    """Flask's own, marked Secure where the request came by https."""

    def __init__(self, always: bool) -> None:
        self._always = always

    def get_cookie_secure(self, app: Flask) -> bool:
        peer = g.get("peer")
        return self._always or (peer is not None and peer.secure)


def configure(server: Flask, settings: Settings) -> None:
    """Set what cookies of sessions are like."""
    server.session_interface = _Cookies(settings.cookie_secure)
    server.config.update(
        SESSION_COOKIE_NAME=COOKIE,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_REFRESH_EACH_REQUEST=False,
        PERMANENT_SESSION_LIFETIME=timedelta(hours=settings.session_hours),
    )


class Ended:
    """Sessions that were signed out of, until they would have expired anyway.

    Args:
        path: A file that web processes on one machine share.
        hours: How long a session lasts.
    """

    def __init__(self, path: Path, hours: float) -> None:
        self._path = path
        self.seconds = hours * 3600
        self._lock = threading.Lock()
        self._seen: tuple[int, ...] = ()
        self._ended: set[str] = set()

    def add(self, number: str) -> None:
        """End a session, in this process whatever becomes of the disk."""
        with self._lock:
            self._ended.add(number)
            try:
                self._note(number)
            except OSError as error:
                _log.error(
                    "an ended session could not be written to %s (%s): a copy of its cookie would "
                    "be taken after a restart",
                    self._path, error.strerror,
                )  # fmt: skip

    def _note(self, number: str) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sweep()
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            # One short write, on a line of its own even where a full disk tore the one before.
            file.write(f"\n{number} {time.time():.0f}\n")

    def __contains__(self, number: str) -> bool:
        with self._lock:
            stamp = self._stamp()
            if stamp != self._seen:
                self._ended |= {line.partition(" ")[0] for line in self._lines()}
                self._seen = stamp
            return number in self._ended

    def _stamp(self) -> tuple[int, ...]:
        """What tells that the file changed; its size alone may be what an older one had."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return ()
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _lines(self) -> list[str]:
        try:
            return self._path.read_text(encoding="ascii", errors="replace").splitlines()
        except FileNotFoundError:
            return []

    def _sweep(self) -> None:
        """Drop the whole file once nothing in it could still be in use."""
        try:
            idle = time.time() - self._path.stat().st_mtime
        except FileNotFoundError:
            return
        if idle > self.seconds:
            self._path.unlink(missing_ok=True)


class RedisEnded(Ended):
    """The same for web processes on several machines.

    Args:
        client: Of ``redis``.
        beside: What this machine knows.
        prefix: Put before every key.
    """

    def __init__(self, client: Any, beside: Ended, prefix: str) -> None:
        self._client = client
        self._beside = beside
        self._prefix = f"{prefix}ended:"

    def add(self, number: str) -> None:
        """End a session, here whatever happens."""
        self._beside.add(number)
        with suppress(*_trouble()):
            self._client.set(self._prefix + number, b"", ex=max(1, int(self._beside.seconds)))

    def __contains__(self, number: str) -> bool:
        if number in self._beside:
            return True
        with suppress(*_trouble()):
            return bool(self._client.exists(self._prefix + number))
        return False


def _trouble() -> tuple[type[Exception], ...]:
    from redis.exceptions import RedisError

    return RedisError, OSError


class Sessions:
    """Who is signed in.

    Args:
        users: Who may.
        ended: Sessions that are over.
    """

    def __init__(self, users: Users, ended: Ended) -> None:
        self._users = users
        self._ended = ended

    def start(self, name: str) -> None:
        """Begin a session for the request at hand, dropping whatever it came with."""
        session.clear()
        session.permanent = True
        session.update(user=name, number=secrets.token_hex(16), mark=self._users.mark(name))

    def end(self) -> None:
        """End the session of the request at hand."""
        number = self._text("number")
        if number and self.user():
            self._ended.add(number)
        session.clear()

    def user(self) -> str:
        """Who is signed in in the request at hand; empty if nobody is."""
        name, number, mark = (self._text(key) for key in ("user", "number", "mark"))
        if not (name and number and mark) or number in self._ended:
            return ""
        return name if secrets.compare_digest(mark, self._users.mark(name)) else ""

    @staticmethod
    def _text(key: str) -> str:
        value: Any = session.get(key)
        return value if isinstance(value, str) else ""
