"""What memory and time the servers of the load test take."""

from __future__ import annotations

import statistics
import threading
import time

import psutil

from tests.support.servers import Servers

MIB = 1 << 20
#: Small caches: they are full when the warm-up ends, and growth after it is a leak.
CACHES = {
    "TRACES_MIB": "16",
    "RECENT_MIB": "4",
    "MEMO_MIB": "512",
}


class Memory(threading.Thread):
    """Samples the servers' memory every second."""

    def __init__(self, servers: Servers) -> None:
        super().__init__(name="memory", daemon=True)
        self._servers = servers
        self._over = threading.Event()
        self.samples: list[tuple[float, dict[str, int]]] = []

    def run(self) -> None:
        """Sample until stopped."""
        while not self._over.is_set():
            self.samples.append((time.monotonic(), self._sizes()))
            self._over.wait(1.0)

    def stop(self) -> None:
        """Sample no more."""
        self._over.set()
        self.join()

    def growth(self, part: str, warm: float) -> tuple[float, float, float]:
        """Bytes after the warm-up and at the end (medians of a tenth of the time), and growth."""
        values = [sizes[part] for _, sizes in self.samples if part in sizes]
        width = max(1, len(values) // 10)
        start = int(warm * len(values))
        early = statistics.median(values[start : start + width])
        late = statistics.median(values[-width:])
        return early, late, late / early - 1.0

    def _sizes(self) -> dict[str, int]:
        parts = self._servers.parts()
        return {name: sum(map(resident, processes)) for name, processes in parts.items()}

    def cpu(self) -> dict[str, float]:
        """CPU seconds that each part has spent."""
        parts = self._servers.parts()
        spent = {name: sum(map(busy, processes)) for name, processes in parts.items()}
        return {**spent, "clients": time.process_time()}

    def report(self, warm: float) -> None:
        """Print memory over time, and what it grew by after the warm-up."""
        parts = sorted({part for _, sizes in self.samples for part in sizes})
        print(f"\n{'memory, MiB':28}" + "".join(f" {part:>8}" for part in parts))
        for tenth in range(11):
            at, sizes = self.samples[min(tenth * len(self.samples) // 10, len(self.samples) - 1)]
            label = f"after {at - self.samples[0][0]:.0f} s"
            print(f"{label:28}" + "".join(f" {sizes.get(p, 0) / MIB:8.0f}" for p in parts))
        for part in parts:
            early, late, grown = self.growth(part, warm)
            print(
                f"{part}: {early / MIB:.0f} -> {late / MIB:.0f} MiB after the warm-up, {grown:+.1%}"
            )


def resident(process: psutil.Process) -> int:
    """Bytes in memory; 0 if it has just ended."""
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def busy(process: psutil.Process) -> float:
    """CPU seconds; 0 if it has just ended."""
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)
