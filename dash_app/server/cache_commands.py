"""``stratascope cache``: what is kept on disk, and emptying it."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.contract.specs import SCHEMA
from analysis.errors import AnalysisError
from analysis.store.memo import Memo
from dash_app.settings import MIB, Settings


@dataclass(frozen=True, slots=True)
class Kept:
    """One folder of results.

    Attributes:
        name: What is in it.
        folder: Where.
        limit: Bytes it may take.
    """

    name: str
    folder: Path
    limit: int


def add_to(commands: Any) -> None:
    """Add ``cache`` to the parser of ``stratascope``."""
    parser = commands.add_parser("cache", help="what the memo on disk holds; empty it")
    inner = parser.add_subparsers(dest="cache", required=True)
    inner.add_parser("info", help="folders, entries, sizes, schema").set_defaults(work=_info)
    clearing = inner.add_parser("clear", help="forget all results, also while the server runs")
    clearing.add_argument("--yes", action="store_true", help="don't ask")
    clearing.set_defaults(work=_clear)


def kept(settings: Settings) -> tuple[Kept, ...]:
    """Every folder of results."""
    return (
        Kept("results", settings.cache_dir / "memo", settings.memo_mib * MIB),
        Kept("prompts of suites", settings.cache_dir / "tasks", settings.tasks_mib * MIB),
    )


def _info(_: argparse.Namespace) -> int:
    print(f"Schema {SCHEMA}: results of another are never served, and go with time.")
    for one in kept(Settings()):
        print(_line(one))
    return 0


def _line(one: Kept) -> str:
    if not one.folder.is_dir():
        return f"{one.name}: nothing yet ({one.folder})"
    memo = Memo(one.folder, one.limit)
    status = memo.status()
    memo.close()
    if status.problem:
        return f"{one.name}: {status.problem}"
    size = f"{status.bytes_used / MIB:.1f} of {one.limit // MIB} MiB"
    return f"{one.name}: {status.entries} entries, {size} ({one.folder})"


def _clear(chosen: argparse.Namespace) -> int:
    found = [one for one in kept(Settings()) if one.folder.is_dir()]
    if not found:
        print("There is nothing to clear.")
        return 0
    for one in found:
        print(_line(one))
    if not (chosen.yes or _confirmed()):
        print("Nothing was cleared.")
        return 1
    for one in found:
        _empty(one)
    print("Cleared. A server that runs goes on with what it has in memory.")
    return 0


def _confirmed() -> bool:
    if not sys.stdin.isatty():
        raise AnalysisError("There is nobody to ask here.", "Say --yes.")
    return input("Forget all of it? [y/N] ").strip().lower() in ("y", "yes")


def _empty(one: Kept) -> None:
    """Through the database, entry by entry: a server that reads meanwhile finds a miss."""
    memo = Memo(one.folder, one.limit)
    memo.clear()
    problem = memo.problem
    memo.close()
    if problem:
        raise AnalysisError(problem)
