"""A process is killed while it writes the history: confirmed writes stay, half a write vanishes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dash_app.history import runs
from dash_app.history.database import Database, Share

OWNER = "user:anne"
SHARE = Share(100_000, 10**9)

#: Inserts 10 MB in one transaction, so that SQLite writes a part of it to the log, and then waits.
HALFWAY = """
import sys, time
from pathlib import Path
from dash_app.history.database import Database, Share
with Database(Path(sys.argv[1]), Share(100_000, 10**9)).transaction() as connection:
    for number in range(200):
        connection.execute(
            "INSERT INTO runs (owner, digest, model, prompt, request, answer, first, last, times,"
            " bytes) VALUES ('user:anne', ?, 'm', ?, '{}', '', 1, 1, 1, 1)",
            (str(number), "x" * 50_000),
        )
    print("halfway", flush=True)
    time.sleep(600)
"""
#: Records runs and confirms each on standard output, until it is killed.
STEADY = """
import sys
from pathlib import Path
from dash_app.history import runs
from dash_app.history.database import Database, Share
database = Database(Path(sys.argv[1]), Share(100_000, 10**9))
for number in range(int(sys.argv[2]), 1_000_000):
    request = {"model": "m", "prompt": f"{number} " + "x" * 20_000}
    assert runs.record(database, "user:anne", request, "an answer")
    print(number, flush=True)
"""


def started(code: str, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *args], stdout=subprocess.PIPE, text=True, bufsize=1
    )


def killed(process: subprocess.Popen[str]) -> str:
    """Kill a process at once; returns what it printed since it was last read."""
    os.kill(process.pid, signal.SIGKILL)
    rest, _ = process.communicate()
    return rest


def is_sound(database: Database) -> bool:
    with database.reading() as connection:
        return connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def test_half_a_write_leaves_nothing(tmp_path: Path) -> None:
    database = Database(tmp_path / "history.sqlite", SHARE)
    runs.record(database, OWNER, {"model": "m", "prompt": "before"}, "")
    child = started(HALFWAY, str(database.path))
    assert child.stdout is not None
    assert child.stdout.readline() == "halfway\n"
    log = database.path.with_name(database.path.name + "-wal")
    assert log.stat().st_size > 1_000_000  # a part of it has reached the disk
    killed(child)
    assert is_sound(database)
    assert [run.prompt for run in runs.listed(database, OWNER).runs] == ["before"]
    assert runs.record(database, OWNER, {"model": "m", "prompt": "after"}, "")


@pytest.mark.parametrize("confirmed", [1, 4, 9])
def test_every_confirmed_run_survives(tmp_path: Path, confirmed: int) -> None:
    database = Database(tmp_path / "history.sqlite", SHARE)
    done: list[int] = []
    for _ in range(2):
        child = started(STEADY, str(database.path), str(len(done)))
        assert child.stdout is not None
        done += [int(child.stdout.readline()) for _ in range(confirmed)]
        done += [int(line) for line in killed(child).split()]
    assert is_sound(database)
    kept = {int(run.prompt.split()[0]) for run in runs.listed(database, OWNER, count=10**6).runs}
    assert set(done) <= kept
    assert len(kept) <= len(done) + 2  # each child may have written one that it did not confirm
