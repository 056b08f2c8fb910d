"""Find or install nginx for the tests behind a proxy: ``python -m tools.nginx``."""

from __future__ import annotations

import sys

from tests.support.nginx import VARIABLE, find
from tools.programs import ensure, from_debian

ADVICE = f"nginx could not be installed. Install it, or set {VARIABLE} to its path."


def main() -> int:
    """Find or install nginx, print its path and return the exit status."""
    return ensure(find, VARIABLE, (_from_debian,), ADVICE)


def _from_debian() -> bool:
    print("setup: installing nginx for the tests", file=sys.stderr, flush=True)
    # RUNLEVEL=1 prevents the package from starting its service; the tests start their own.
    return from_debian("nginx", RUNLEVEL="1")


if __name__ == "__main__":
    sys.exit(main())
