"""Sessions: a signed cookie that names the user, and a list of sessions that were ended.

The cookie is Flask's: it is signed with the server's key and carries the time, so that it can't be
forged or used after ``STRATASCOPE_SESSION_HOURS``. It holds the user's name, the number of the
session (a new one at each sign-in), and a mark of the password's hash, so that a new password or
the removal of the user ends every session. Signing out ends the current session, also for copies
of its cookie.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from flask import session

from dash_app.security.users import Users

_log = logging.getLogger("stratascope.sessions")


class Ended:
    """Sessions whose users signed out, kept until they would have expired.

    Args:
        path: A file that the web processes of one machine share.
        hours: How long a session lasts.
    """

    def __init__(self, path: Path, hours: float) -> None:
        self._path = path
        self.seconds = hours * 3600
        self._lock = threading.Lock()
        self._seen: tuple[int, ...] = ()
        self._ended: set[str] = set()

    def add(self, number: str) -> None:
        """End a session; in this process also if the disk fails."""
        with self._lock:
            self._ended.add(number)
            try:
                self._note(number)
            except OSError as error:
                _log.error(
                    "an ended session could not be written to %s (%s): after a restart a copy of "
                    "its cookie would be accepted",
                    self._path, error.strerror,
                )  # fmt: skip

    def _note(self, number: str) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sweep()
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            # One short write that starts a new line, in case a full disk cut the last one short.
            file.write(f"\n{number} {time.time():.0f}\n")

    def __contains__(self, number: str) -> bool:
        with self._lock:
            stamp = self._stamp()
            if stamp != self._seen:
                self._ended |= {line.partition(" ")[0] for line in self._lines()}
                self._seen = stamp
            return number in self._ended

    def _stamp(self) -> tuple[int, ...]:
        """Identifies the state of the file; the size alone could match an older file."""
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
        """Delete the file once every session in it has expired."""
        try:
            idle = time.time() - self._path.stat().st_mtime
        except FileNotFoundError:
            return
        if idle > self.seconds:
            self._path.unlink(missing_ok=True)


class RedisEnded(Ended):
    """Ended sessions that web processes on several machines share.

    Args:
        client: A ``redis`` client.
        local: The ended sessions that this machine knows.
        prefix: Put before every key.
    """

    def __init__(self, client: Any, local: Ended, prefix: str) -> None:
        self._client = client
        self._local = local
        self._prefix = f"{prefix}ended:"

    def add(self, number: str) -> None:
        """End a session; on this machine also if Redis fails."""
        self._local.add(number)
        with suppress(*_redis_errors()):
            self._client.set(self._prefix + number, b"", ex=max(1, int(self._local.seconds)))

    def __contains__(self, number: str) -> bool:
        if number in self._local:
            return True
        with suppress(*_redis_errors()):
            return bool(self._client.exists(self._prefix + number))
        return False


def _redis_errors() -> tuple[type[Exception], ...]:
    from redis.exceptions import RedisError

    return RedisError, OSError


class Sessions:
    """Who is signed in.

    Args:
        users: Who may sign in.
        ended: Sessions that were ended.
    """

    def __init__(self, users: Users, ended: Ended) -> None:
        self._users = users
        self._ended = ended

    def start(self, name: str) -> None:
        """Begin a new session for the current request, in place of any old one."""
        session.clear()
        session.permanent = True
        session.update(user=name, number=secrets.token_hex(16), mark=self._users.mark(name))

    def start_with_token(self, token: str) -> None:
        """Begin a session for someone who has the server's token."""
        session.clear()
        session.permanent = True
        session["token"] = _mark_of(token)

    def has_token(self, token: str) -> bool:
        """Whether the session of the current request began with the token."""
        return secrets.compare_digest(self._text("token"), _mark_of(token))

    def end(self) -> None:
        """End the session of the current request."""
        number = self._text("number")
        if number and self.user():
            self._ended.add(number)
        session.clear()

    def user(self) -> str:
        """The signed-in user of the current request; empty if there is none."""
        name, number, mark = (self._text(key) for key in ("user", "number", "mark"))
        if not (name and number and mark) or number in self._ended:
            return ""
        return name if secrets.compare_digest(mark, self._users.mark(name)) else ""

    @staticmethod
    def _text(key: str) -> str:
        value: Any = session.get(key)
        return value if isinstance(value, str) else ""


def _mark_of(token: str) -> str:
    """What the cookie holds in place of the token; its content can be read."""
    return hashlib.sha256(f"session of {token}".encode()).hexdigest()[:32]
