"""Sees to it that a program is there which the tests start."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence


def ensure(
    find: Callable[[], str], variable: str, installers: Sequence[Callable[[], bool]], advice: str
) -> int:
    """Find a program, else install it; prints its path, returns the exit status.

    Args:
        find: Gives its path, or raises ``FileNotFoundError``.
        variable: Environment variable that names one: then nothing is installed.
        installers: Tried in order until one says that it did it.
        advice: What is told where none did.
    """
    try:
        print(find())
    except FileNotFoundError as error:
        if os.environ.get(variable):
            print(error, file=sys.stderr)
            return 1
        return _install(find, installers, advice)
    return 0


def _install(find: Callable[[], str], installers: Sequence[Callable[[], bool]], advice: str) -> int:
    if not any(install() for install in installers):
        print(advice, file=sys.stderr)
        return 1
    print(find())
    return 0


def from_debian(package: str, **environment: str) -> bool:
    """Install a package, and a program of its name, by apt; False where that can't be done."""
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    if not is_root or not shutil.which("apt-get"):
        return False
    variables = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", **environment}
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package]
    steps = [["apt-get", "update", "-qq"], install]
    return all(succeeds(step, variables) for step in steps) and bool(shutil.which(package))


def succeeds(command: list[str], environment: dict[str, str]) -> bool:
    """Whether a command ends well."""
    return subprocess.run(command, env=environment, check=False).returncode == 0
