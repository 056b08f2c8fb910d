"""Sees to it that the tests of scale-out have a Redis server: ``python -m tools.redis``."""

from __future__ import annotations

import sys

from tests.support.redis import VARIABLE, find
from tools.programs import ensure, from_debian

ADVICE = (
    "No redis-server could be installed. Install redis by hand, "
    f"or set {VARIABLE} to the path of one."
)


def main() -> int:
    """Find a redis-server, else install one; prints its path, returns the exit status."""
    return ensure(find, VARIABLE, (_from_debian,), ADVICE)


def _from_debian() -> bool:
    print("setup: installing redis-server for the tests", file=sys.stderr, flush=True)
    # RUNLEVEL=1: the package's own service is not started, the tests start theirs.
    return from_debian("redis-server", RUNLEVEL="1")


if __name__ == "__main__":
    sys.exit(main())
