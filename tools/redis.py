"""Find or install a Redis server for the tests of scale-out: ``python -m tools.redis``."""

from __future__ import annotations

import sys

from tests.support.redis import VARIABLE, find
from tools.programs import ensure, from_debian

ADVICE = (
    "redis-server could not be installed. Install redis, "
    f"or set {VARIABLE} to the path of redis-server."
)


def main() -> int:
    """Find or install a redis-server, print its path and return the exit status."""
    return ensure(find, VARIABLE, (_from_debian,), ADVICE)


def _from_debian() -> bool:
    print("setup: installing redis-server for the tests", file=sys.stderr, flush=True)
    # RUNLEVEL=1 prevents the package from starting its service; the tests start their own.
    return from_debian("redis-server", RUNLEVEL="1")


if __name__ == "__main__":
    sys.exit(main())
