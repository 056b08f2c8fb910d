"""Peak memory of a piece of work in a process of its own, by the kernel's own high-water mark."""

from __future__ import annotations

from pathlib import Path

from analysis.model.handle import Model

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def touch(model: Model) -> None:
    """Read every weight once: what a file maps is in memory, and counts as the loaded model."""
    for weight in (*model.hf.parameters(), *model.hf.buffers()):
        weight.detach().view(-1)[::512].sum().item()


def resident() -> int:
    """Bytes of this process in memory now."""
    return _field("VmRSS")


def reset_peak() -> None:
    """Start the high-water mark anew, at what is resident now (Linux: proc(5), clear_refs)."""
    _CLEAR.write_text("5")


def peak() -> int:
    """Bytes at the high-water mark since ``reset_peak``: no peak between two samples is missed."""
    return _field("VmHWM")


def _field(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {name}; this measurement needs Linux")
