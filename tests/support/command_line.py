"""Run a command of one part of ``analysis``, without the app around it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any


def run(add_to: Callable[[Any], None], *arguments: str) -> int:
    """Parse arguments by one part's parsers and run the command; its errors are raised.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser()
    add_to(parser.add_subparsers(dest="command", required=True))
    chosen = parser.parse_args(arguments)
    return int(chosen.work(chosen))
