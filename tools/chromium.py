"""Find or install a Chromium for the browser tests: ``python -m tools.chromium``."""

from __future__ import annotations

import os
import sys

from tests.support.chromium import VARIABLE, find
from tools.programs import ensure, from_debian, succeeds

ADVICE = (
    "Chromium could not be installed. Install chromium or google-chrome, "
    f"or set {VARIABLE} to its path."
)


def main() -> int:
    """Find or install a Chromium, print its path and return the exit status."""
    return ensure(find, VARIABLE, (_from_debian, _from_playwright), ADVICE)


def _from_debian() -> bool:
    print("setup: installing Chromium for the browser tests", file=sys.stderr, flush=True)
    return from_debian("chromium-headless-shell") or from_debian("chromium")


def _from_playwright() -> bool:
    return succeeds([sys.executable, "-m", "playwright", "install", "chromium"], {**os.environ})


if __name__ == "__main__":
    sys.exit(main())
