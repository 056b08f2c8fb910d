"""``stratascope cache``: show the size of the results on disk, and delete them."""

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
class Folder:
    """One folder of results.

    Attributes:
        name: What it contains.
        folder: Its path.
        limit: Most bytes in it.
    """

    name: str
    folder: Path
    limit: int


def add_to(commands: Any) -> None:
    """Add ``cache`` to the parser of ``stratascope``."""
    parser = commands.add_parser("cache", help="show or clear the results on disk")
    inner = parser.add_subparsers(dest="cache", required=True)
    info = inner.add_parser("info", help="list folders, entries, sizes and schema")
    info.set_defaults(work=_info)
    clearing = inner.add_parser("clear", help="delete all results, also while the server runs")
    clearing.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    clearing.set_defaults(work=_clear)


def folders(settings: Settings) -> tuple[Folder, ...]:
    """Every folder of results."""
    return (
        Folder("results", settings.cache_dir / "memo", settings.memo_mib * MIB),
        Folder("prompts of suites", settings.cache_dir / "tasks", settings.tasks_mib * MIB),
    )


def _info(_: argparse.Namespace) -> int:
    print(f"Schema {SCHEMA}. Results of other schemas are not used, and are evicted over time.")
    for one in folders(Settings()):
        print(_line(one))
    return 0


def _line(one: Folder) -> str:
    if not one.folder.is_dir():
        return f"{one.name}: empty ({one.folder})"
    memo = Memo(one.folder, one.limit)
    status = memo.status()
    memo.close()
    if status.problem:
        return f"{one.name}: {status.problem}"
    size = f"{status.bytes_used / MIB:.1f} of {one.limit // MIB} MiB"
    return f"{one.name}: {status.entries} entries, {size} ({one.folder})"


def _clear(chosen: argparse.Namespace) -> int:
    found = [one for one in folders(Settings()) if one.folder.is_dir()]
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
    print("Cleared. A running server keeps the results that it has in memory.")
    return 0


def _confirmed() -> bool:
    if not sys.stdin.isatty():
        raise AnalysisError("There is no terminal to ask for confirmation.", "Add --yes.")
    return input("Delete all results? [y/N] ").strip().lower() in ("y", "yes")


def _empty(one: Folder) -> None:
    """Delete entry by entry through the database, so that a running server finds a miss."""
    memo = Memo(one.folder, one.limit)
    memo.clear()
    problem = memo.problem
    memo.close()
    if problem:
        raise AnalysisError(problem)
