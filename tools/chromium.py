"""Sees to it that the browser tests have a Chromium: ``python -m tools.chromium``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from tests.support.chromium import find


def main() -> int:
    """Find a Chromium, else install one; prints its path, returns the exit status."""
    try:
        print(find())
    except FileNotFoundError as error:
        if os.environ.get("STRATASCOPE_CHROMIUM"):
            print(error, file=sys.stderr)
            return 1
        return _install()
    return 0


def _install() -> int:
    print("setup: installing Chromium for the browser tests", file=sys.stderr, flush=True)
    if not (_from_debian() or _from_playwright()):
        print(
            "No Chromium could be installed. Install chromium or google-chrome by hand, "
            "or set STRATASCOPE_CHROMIUM to the path of one.",
            file=sys.stderr,
        )
        return 1
    print(find())
    return 0


def _from_debian() -> bool:
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    if not is_root or not shutil.which("apt-get"):
        return False
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"]
    steps = [["apt-get", "update", "-qq"], install]
    return all(_succeeds(step, environment) for step in steps) and bool(shutil.which("chromium"))


def _from_playwright() -> bool:
    return _succeeds([sys.executable, "-m", "playwright", "install", "chromium"], {**os.environ})


def _succeeds(command: list[str], environment: dict[str, str]) -> bool:
    return subprocess.run(command, env=environment, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
