"""Find Debian's redis-server (``tools/redis.py`` installs it), and run one for a test."""

from __future__ import annotations

import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

from tests.support.find_program import located

VARIABLE = "STRATASCOPE_REDIS_SERVER"
NAMES = ("redis-server", "valkey-server")


def find() -> str:
    """Path of a Redis server.

    Raises:
        FileNotFoundError: If there is none, saying how to get one.
    """
    if path := located(VARIABLE, NAMES):
        return path
    raise FileNotFoundError(f"No redis-server is here. Run make redis, or set {VARIABLE} to one.")


class RedisServer:
    """A Redis on a socket in the test's folder: no port and no data on disk."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._command = [
            find(), "--port", "0", "--unixsocket", str(self.socket), "--save", "",
            "--appendonly", "no", "--dir", str(folder), "--loglevel", "warning",
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it (again), empty, and wait until it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        pause = threading.Event()
        for _ in range(1000):
            if self._answers():
                return
            pause.wait(0.02)
        raise AssertionError("redis-server did not start")

    def _answers(self) -> bool:
        import redis

        try:
            return bool(self.client().ping())
        except (redis.exceptions.RedisError, OSError):
            return False

    def client(self) -> Any:
        """A client to inspect the data."""
        import redis

        return redis.Redis.from_url(self.url)

    def signal(self, number: int) -> None:
        """Send a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it (SIGKILL): its data is lost."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """Stop it."""
        self._end(signal.SIGTERM)

    def _end(self, how: int) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None
