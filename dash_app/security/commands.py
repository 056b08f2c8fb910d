"""``stratascope users``: who may sign in."""

from __future__ import annotations

import argparse
import getpass
import sys
from typing import Any

from analysis.errors import AnalysisError
from dash_app.security.users import LONGEST, Users, users_file
from dash_app.settings import Settings


def add_to(commands: Any) -> None:
    """Add ``users`` to the parser of ``stratascope``."""
    parser = commands.add_parser("users", help="who may sign in (STRATASCOPE_LOGIN=users)")
    inner = parser.add_subparsers(dest="users", required=True)
    adding = inner.add_parser(
        "add", help="add a user, or give one a new password; asks for it, or reads it from a pipe"
    )
    removing = inner.add_parser("remove", help="remove a user, whose sessions end at once")
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
    """What a person types twice, or a pipe says once."""
    if not sys.stdin.isatty():
        return sys.stdin.readline(LONGEST + 2).rstrip("\r\n")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        raise AnalysisError("The two are not the same.", "Try again.")
    return password


def _remove(chosen: argparse.Namespace) -> int:
    _users().remove(chosen.name)
    print(f"{chosen.name} may not sign in any more.")
    return 0


def _list(_: argparse.Namespace) -> int:
    names = _users().names()
    print("\n".join(names) if names else "There are no users: 'stratascope users add NAME'.")
    return 0
