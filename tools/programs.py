"""Find or install a program that the tests start."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence


def ensure(
    find: Callable[[], str], variable: str, installers: Sequence[Callable[[], bool]], advice: str
) -> int:
    """Find or install a program, print its path and return the exit status.

    Args:
        find: Returns its path, or raises ``FileNotFoundError``.
        variable: Environment variable that can name the path; if it is set, nothing is installed.
        installers: Called in order until one returns True.
        advice: Printed if none does.
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
    if any(install() for install in installers):
        try:
            print(find())
        except FileNotFoundError as error:  # what was installed is not the right one
            print(error, file=sys.stderr)
        else:
            return 0
    print(advice, file=sys.stderr)
    return 1


def from_debian(package: str, **environment: str) -> bool:
    """Install a Debian package and return whether its program is then on the path."""
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    if not is_root or not shutil.which("apt-get"):
        return False
    variables = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", **environment}
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package]
    steps = [["apt-get", "update", "-qq"], install]
    return all(succeeds(step, variables) for step in steps) and bool(shutil.which(package))


def succeeds(command: list[str], environment: dict[str, str]) -> bool:
    """Run a command and return whether it succeeds."""
    return subprocess.run(command, env=environment, check=False).returncode == 0
