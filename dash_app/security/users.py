"""The users file: names and argon2 hashes as JSON, mode 0600, replaced in one step."""

from __future__ import annotations

import argparse
import getpass
import hashlib
import json
import os
import re
import sys
import tempfile
import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from filelock import FileLock

from analysis.errors import AnalysisError
from dash_app.settings import Settings

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
SHORTEST, LONGEST = 10, 1024
#: Each hash takes 64 MiB and a tenth of a second, so at most this many run at once.
_AT_ONCE = threading.BoundedSemaphore(2)


def users_file(settings: Settings) -> Path:
    """Path of the users file."""
    return settings.users_file or settings.data_dir / "users.json"


@dataclass(frozen=True, slots=True)
class _Stamp:
    """Identifies the state of the file, to notice changes."""

    inode: int
    size: int
    changed: int


class Users:
    """Who may sign in; a change of the file takes effect at once.

    Args:
        path: The file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._hasher = PasswordHasher()
        self._lock = threading.Lock()
        self._stamp: _Stamp | None = None
        self._hashes: dict[str, str] = {}

    def names(self) -> tuple[str, ...]:
        """All users."""
        return tuple(sorted(self._read()))

    def verify(self, name: str, password: str) -> bool:
        """Whether this is the user's password. Refusing an unknown user takes as long."""
        known, decoy = self._read().get(name), self._decoy
        with _AT_ONCE:
            try:
                matches = self._hasher.verify(known or decoy, password[: LONGEST + 1])
            except (VerificationError, InvalidHashError):
                return False
        return matches and known is not None

    @cached_property
    def _decoy(self) -> str:
        """The hash to verify for an unknown user, so that both cases take the same time."""
        return self._hasher.hash("nobody has this password")

    def mark(self, name: str) -> str:
        """A text that changes with the user's password; empty for an unknown user."""
        known = self._read().get(name)
        return hashlib.sha256(known.encode()).hexdigest()[:16] if known else ""

    def add(self, name: str, password: str) -> bool:
        """Add a user, or set a new password.

        Returns:
            Whether the user is new.

        Raises:
            AnalysisError: If the name or the password is invalid.
        """
        if not NAME.fullmatch(name):
            raise AnalysisError(
                f"{name!r} is not a valid user name.",
                "Use up to 64 letters, digits and . _ @ + -, and start with a letter or digit.",
            )
        if not SHORTEST <= len(password) <= LONGEST:
            raise AnalysisError(
                f"The password has {len(password)} characters.",
                f"Use {SHORTEST} to {LONGEST} characters.",
            )
        if password.encode(errors="replace").decode() != password:
            raise AnalysisError("The password is not UTF-8.", "Encode it as UTF-8.")
        with self._locked():
            hashes = dict(self._read())
            is_new = name not in hashes
            self._write({**hashes, name: self._hasher.hash(password)})
        return is_new

    def remove(self, name: str) -> None:
        """Remove a user and end the user's sessions.

        Raises:
            AnalysisError: If there is no such user.
        """
        with self._locked():
            hashes = dict(self._read())
            if name not in hashes:
                raise AnalysisError(
                    f"There is no user {name!r}.", "List the users: stratascope users list"
                )
            del hashes[name]
            self._write(hashes)

    def _locked(self) -> FileLock:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return FileLock(f"{self._path}.lock", timeout=10, mode=0o600)

    def _read(self) -> dict[str, str]:
        with self._lock:
            try:
                found = self._path.stat()
            except FileNotFoundError:
                self._stamp, self._hashes = None, {}
                return self._hashes
            stamp = _Stamp(found.st_ino, found.st_size, found.st_mtime_ns)
            if stamp != self._stamp:
                self._refuse_if_open_to_others(found.st_mode, found.st_uid)
                self._hashes, self._stamp = self._parse(), stamp
            return self._hashes

    def _refuse_if_open_to_others(self, mode: int, owner: int) -> None:
        if mode & 0o077 or owner not in (0, os.getuid()):
            raise AnalysisError(
                f"Other users of this machine can read or change the users file {self._path}.",
                f"Run: chmod 600 {self._path}",
            )

    def _parse(self) -> dict[str, str]:
        try:
            users = json.loads(self._path.read_text(encoding="utf-8"))["users"]
            return {str(name): str(entry["argon2"]) for name, entry in users.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise AnalysisError(
                f"The users file {self._path} can't be read.",
                "Restore it, or remove it and add the users again.",
            ) from error

    def _write(self, hashes: dict[str, str]) -> None:
        users = {name: {"argon2": hashes[name]} for name in sorted(hashes)}
        handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=".users-")  # mode 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({"users": users}, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self._path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def add_to(commands: Any) -> None:
    """Add ``users`` to the parser of ``stratascope``."""
    parser = commands.add_parser(
        "users", help="manage the users who may sign in (STRATASCOPE_LOGIN=users)"
    )
    inner = parser.add_subparsers(dest="users", required=True)
    adding = inner.add_parser(
        "add", help="add a user or set a new password; reads the password from a terminal or a pipe"
    )
    removing = inner.add_parser("remove", help="remove a user and end the user's sessions")
    listing = inner.add_parser("list", help="list the users")
    for command in (adding, removing):
        command.add_argument("name")
    adding.set_defaults(work=_add)
    removing.set_defaults(work=_remove)
    listing.set_defaults(work=_list)


def _users() -> Users:
    return Users(users_file(Settings()))


def _add(chosen: argparse.Namespace) -> int:
    new = _users().add(chosen.name, _password())
    print(f"{chosen.name} {'may sign in' if new else 'has a new password'}.")
    return 0


def _password() -> str:
    """The password: typed twice at a terminal, or read once from a pipe."""
    if not sys.stdin.isatty():
        return sys.stdin.readline(LONGEST + 2).rstrip("\r\n")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        raise AnalysisError("The two passwords differ.", "Try again.")
    return password


def _remove(chosen: argparse.Namespace) -> int:
    _users().remove(chosen.name)
    print(f"{chosen.name} may no longer sign in.")
    return 0


def _list(_: argparse.Namespace) -> int:
    names = _users().names()
    print("\n".join(names) if names else "There are no users. Add one: stratascope users add NAME")
    return 0
