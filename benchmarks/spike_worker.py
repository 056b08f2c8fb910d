"""The spike behind ADR 0010: what pebble, loky and huey do when a model worker is killed.

Eight jobs are queued, the worker is SIGKILLed in the second, and a click comes
during a long job. Run it as ``python benchmarks/spike_worker.py`` after
``pip install pebble loky huey``; none of them is a dependency of the product.
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
    """Stand in for a forward pass: (number, pid, whether the 'model' was already there)."""
    warm = "model" in _RESIDENT
    _RESIDENT.setdefault("model", time.time())
    time.sleep(seconds)
    return number, os.getpid(), warm


def outcome(futures: list[Any]) -> str:
    """One letter a job: D done, x lost."""
    marks = []
    for future in futures:
        try:
            future.result(timeout=30)
            marks.append("D")
        except Exception as error:  # noqa: BLE001 - every way of losing a job counts here
            marks.append(f"x[{type(error).__name__}]")
    return "".join(marks)


def kill_running(find: Callable[[], int]) -> None:
    """SIGKILL the worker in the middle of the second job."""
    time.sleep(STEP * 1.5)
    os.kill(find(), signal.SIGKILL)


def spike_pool(name: str, make: Callable[[], Any], schedule: Callable[[Any, int], Any]) -> None:
    """Eight jobs, a kill, and what cancelling a running job does."""
    pool = make()
    pid = schedule(pool, -1).result()[1]
    futures = [schedule(pool, number) for number in range(JOBS)]
    kill_running(lambda: int(pid))
    print(f"{name}: eight jobs, one kill -> {outcome(futures)}")
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
    """Pebble's process pool, one spawned worker."""
    from pebble import ProcessPool

    context = multiprocessing.get_context("spawn")
    spike_pool(
        "pebble",
        lambda: ProcessPool(max_workers=1, context=context),
        lambda pool, number: pool.schedule(work, args=(number,)),
    )


def spike_loky() -> None:
    """Loky's reusable executor, one worker."""
    from loky import get_reusable_executor

    spike_pool(
        "loky",
        lambda: get_reusable_executor(max_workers=1, timeout=60),
        lambda pool, number: pool.submit(work, number),
    )


def spike_huey() -> None:
    """Huey with its SQLite store: what lies on the disk while eight jobs wait."""
    from huey import SqliteHuey

    folder = Path(tempfile.mkdtemp())
    queue = SqliteHuey(filename=str(folder / "queue.db"))
    task = queue.task()(work)
    for number in range(JOBS):
        task(number, STEP, priority=number % 2)
    raw = b"".join(path.read_bytes() for path in folder.glob("queue.db*"))
    pickled = any(mark in raw for mark in (b"huey.registry", b"\x80\x04", b"\x80\x05"))
    print(f"huey: {queue.pending_count()} jobs wait; pickle in the queue file: {pickled}")
    running = [name for name in ("cancel", "progress", "set_progress") if hasattr(queue, name)]
    print(f"huey: interfaces for cancelling a running job or its progress: {running or 'none'}")


def main() -> None:
    """All three, one after the other."""
    chosen = sys.argv[1:]
    for spike in (spike_pebble, spike_loky, spike_huey):
        if chosen and spike.__name__.removeprefix("spike_") not in chosen:
            continue
        spike()


if __name__ == "__main__":
    main()
