"""The experiment of ADR 10: what pebble, loky and huey do when a model worker is killed.

    pip install pebble loky huey
    python benchmarks/spike_worker.py [pebble] [loky] [huey]

It queues eight jobs, kills the worker (SIGKILL) in the second, and cancels a running job. The three
packages are not dependencies of the product.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

JOBS = 8
STEP = 0.4
_RESIDENT: dict[str, float] = {}


def work(number: int, seconds: float = STEP) -> tuple[int, int, bool]:
    """Simulate a forward pass; return the number, the pid and whether the model was resident."""
    warm = "model" in _RESIDENT
    _RESIDENT.setdefault("model", time.time())
    time.sleep(seconds)
    return number, os.getpid(), warm


def outcomes(futures: list[Any]) -> str:
    """Return one mark for each job: D for done, x for lost."""
    marks = []
    for future in futures:
        try:
            future.result(timeout=30)
            marks.append("D")
        except Exception as error:  # noqa: BLE001 - any error is a lost job
            marks.append(f"x[{type(error).__name__}]")
    return "".join(marks)


def kill_running(find: Callable[[], int]) -> None:
    """Kill the worker (SIGKILL) in the middle of the second job."""
    time.sleep(STEP * 1.5)
    os.kill(find(), signal.SIGKILL)


def spike_pool(name: str, make: Callable[[], Any], schedule: Callable[[Any, int], Any]) -> None:
    """Run eight jobs with one kill, and then cancel a running job."""
    pool = make()
    pid = schedule(pool, -1).result()[1]
    futures = [schedule(pool, number) for number in range(JOBS)]
    kill_running(lambda: int(pid))
    print(f"{name}: eight jobs, one kill -> {outcomes(futures)}")
    try:
        _, before, _ = schedule(pool, 100).result()
        running = schedule(pool, 101)
        time.sleep(STEP / 2)
        print(f"{name}: cancel of a running job accepted: {running.cancel()}")
        _, after, warm = schedule(pool, 102).result()
        print(f"{name}: same process after it: {before == after}, model still resident: {warm}")
    except Exception as error:  # noqa: BLE001
        print(f"{name}: unusable afterwards: {type(error).__name__}")


def spike_pebble() -> None:
    """Test pebble's process pool with one spawned worker."""
    from pebble import ProcessPool  # type: ignore[import-not-found]

    context = multiprocessing.get_context("spawn")
    spike_pool(
        "pebble",
        lambda: ProcessPool(max_workers=1, context=context),
        lambda pool, number: pool.schedule(work, args=(number,)),
    )


def spike_loky() -> None:
    """Test loky's reusable executor with one worker."""
    from loky import get_reusable_executor  # type: ignore[import-not-found]

    spike_pool(
        "loky",
        lambda: get_reusable_executor(max_workers=1, timeout=60),
        lambda pool, number: pool.submit(work, number),
    )


def spike_huey() -> None:
    """Test huey with its SQLite store: examine the queue file while eight jobs wait."""
    from huey import SqliteHuey  # type: ignore[import-not-found]

    folder = Path(tempfile.mkdtemp())
    queue = SqliteHuey(filename=str(folder / "queue.db"))
    task = queue.task()(work)
    for number in range(JOBS):
        task(number, STEP, priority=number % 2)
    raw = b"".join(path.read_bytes() for path in folder.glob("queue.db*"))
    pickled = any(mark in raw for mark in (b"huey.registry", b"\x80\x04", b"\x80\x05"))
    print(f"huey: {queue.pending_count()} jobs wait; pickle in the queue file: {pickled}")
    interfaces = [name for name in ("cancel", "progress", "set_progress") if hasattr(queue, name)]
    print(f"huey: interfaces for cancelling a running job or its progress: {interfaces or 'none'}")


def main() -> None:
    """Test the packages given on the command line, or all three."""
    chosen = sys.argv[1:]
    for spike in (spike_pebble, spike_loky, spike_huey):
        if chosen and spike.__name__.removeprefix("spike_") not in chosen:
            continue
        spike()


if __name__ == "__main__":
    main()
