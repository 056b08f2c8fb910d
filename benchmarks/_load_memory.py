"""Memory and CPU time of the servers of the load test."""

from __future__ import annotations

import statistics
import threading
import time

import psutil

from tests.support.servers import Servers

MIB = 1 << 20
#: Small caches: they are full at the end of the warm-up, so any later growth is a leak.
CACHES = {
    "TRACES_MIB": "16",
    "RECENT_MIB": "4",
    "MEMO_MIB": "512",
}


class Memory(threading.Thread):
    """Sample the servers' memory every second."""

    def __init__(self, servers: Servers) -> None:
        super().__init__(name="memory", daemon=True)
        self._servers = servers
        self._stopped = threading.Event()
        self.samples: list[tuple[float, dict[str, int]]] = []

    def run(self) -> None:
        """Sample until stopped."""
        while not self._stopped.is_set():
            self.samples.append((time.monotonic(), self._sizes()))
            self._stopped.wait(1.0)

    def stop(self) -> None:
        """Stop sampling."""
        self._stopped.set()
        self.join()

    def growth(self, part: str, warm: float) -> tuple[float, float, float]:
        """Return the memory of one server after the warm-up and at the end, and its growth.

        Args:
            part: The server's name.
            warm: Fraction of the time that is warm-up, 0 to 1.

        Returns:
            Bytes after the warm-up, bytes at the end (medians of a tenth of the time each), and the
            growth as a fraction.
        """
        values = [sizes[part] for _, sizes in self.samples if part in sizes]
        width = max(1, len(values) // 10)
        start = int(warm * len(values))
        early = statistics.median(values[start : start + width])
        late = statistics.median(values[-width:])
        return early, late, late / early - 1.0

    def _sizes(self) -> dict[str, int]:
        parts = self._servers.parts()
        return {name: sum(map(resident_bytes, processes)) for name, processes in parts.items()}

    def cpu(self) -> dict[str, float]:
        """Return the CPU seconds of each server so far."""
        parts = self._servers.parts()
        spent = {name: sum(map(cpu_seconds, processes)) for name, processes in parts.items()}
        return {**spent, "clients": time.process_time()}

    def report(self, warm: float) -> None:
        """Print the memory over time and its growth after the warm-up."""
        parts = sorted({part for _, sizes in self.samples for part in sizes})
        print(f"\n{'memory, MiB':28}" + "".join(f" {part:>8}" for part in parts))
        for tenth in range(11):
            moment, sizes = self.samples[
                min(tenth * len(self.samples) // 10, len(self.samples) - 1)
            ]
            label = f"after {moment - self.samples[0][0]:.0f} s"
            print(f"{label:28}" + "".join(f" {sizes.get(p, 0) / MIB:8.0f}" for p in parts))
        for part in parts:
            early, late, grown = self.growth(part, warm)
            print(
                f"{part}: {early / MIB:.0f} -> {late / MIB:.0f} MiB after the warm-up, {grown:+.1%}"
            )


def resident_bytes(process: psutil.Process) -> int:
    """Return the bytes in memory; 0 if the process has just ended."""
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU seconds; 0 if the process has just ended."""
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)
