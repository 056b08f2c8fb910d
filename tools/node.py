"""Makes sure that Node.js is there for the JavaScript tests: ``python -m tools.node``."""

from __future__ import annotations

import sys

from tests.support.node import VARIABLE, find
from tools.programs import ensure, from_debian

ADVICE = (
    "Node.js could not be installed. Install Node.js 18.15 or later by hand, "
    f"or set {VARIABLE} to the path of one."
)


def main() -> int:
    """Find Node.js, else install it; prints its path, returns the exit status."""
    return ensure(find, VARIABLE, (_from_debian,), ADVICE)


def _from_debian() -> bool:
    print("setup: installing Node.js for the JavaScript tests", file=sys.stderr, flush=True)
    return from_debian("nodejs")


if __name__ == "__main__":
    sys.exit(main())
