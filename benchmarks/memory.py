"""Peak memory of this process, from the kernel's high-water mark."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

from analysis.model.handle import Model

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def touch(model: Model) -> None:
    """Read every weight once, so that mapped files are in memory."""
    for weight in (*model.hf.parameters(), *model.hf.buffers()):
        weight.detach().view(-1)[::512].sum().item()


def trim() -> None:
    """Give freed memory back to the system, so that the next peak shows all that work needs."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def resident() -> int:
    """Return the bytes of this process in memory now."""
    return _field("VmRSS")


def reset_peak() -> None:
    """Reset the high-water mark to the present size (Linux: proc(5), clear_refs)."""
    _CLEAR.write_text("5")


def peak() -> int:
    """Return the largest number of bytes since ``reset_peak``. Sampling could miss a peak."""
    return _field("VmHWM")


def own() -> int:
    """Return the bytes of this process in memory now, without the pages of mapped files."""
    return _field("RssAnon")


def own_peak(work: Callable[[], object]) -> int:
    """Return the largest number of bytes of its own that the process has during ``work``.

    Pages of mapped files are left out: the kernel drops them when memory is short. The size is read
    twenty times a second.
    """
    sizes, done = [own()], Event()

    def watch() -> None:
        while not done.wait(0.05):
            sizes.append(own())

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return max(sizes)


def _field(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {name}. This measurement needs Linux.")
