"""The model worker's process: start it, send to it, end it."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any

from analysis.worker.child import ENVIRONMENT


class Wakeup:
    """Wakes a thread that waits on pipes. It waits on ``handle``; any thread may wake it."""

    def __init__(self) -> None:
        self.handle, self._sender = multiprocessing.Pipe(duplex=False)
        self._pending = False
        self._lock = threading.Lock()

    def wake(self) -> None:
        """Wake the waiting thread. Further calls do nothing until it acknowledges."""
        with self._lock:
            if not self._pending and not self._sender.closed:
                self._pending = True
                self._sender.send_bytes(b"!")

    def acknowledge(self) -> None:
        """Called by the waiting thread when it is awake."""
        with self._lock:
            self.handle.recv_bytes()
            self._pending = False

    def close(self) -> None:
        """Close the pipe. Later calls of ``wake`` do nothing."""
        with self._lock:
            self.handle.close()
            self._sender.close()


class WorkerProcess:
    """A fresh interpreter that runs ``analysis.worker.child``, and the pipe to it.

    It starts with exec. A bare fork after a threaded forward pass hangs, and CUDA does not work
    after a fork. The spawn method of multiprocessing would import the web server's main module
    again.

    Args:
        function: Dotted name of the function that computes.
    """

    def __init__(self, function: str) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", "analysis.worker.child", str(theirs.fileno()), function],
                stdin=subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                env={**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(_search_path())},
            )
        finally:
            theirs.close()
        self.ready = False

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def send(self, message: Any) -> None:
        """Send a message. A message to an ended worker is lost; the pipe shows its end."""
        with suppress(OSError):
            self.pipe.send(message)

    def kill(self) -> str:
        """Kill the process. Returns how it ended."""
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()
        self._process.kill()
        code = self._process.wait()
        self.pipe.close()
        return f"signal {-code}" if code < 0 else f"exit status {code}"

    def end(self) -> str:
        """How the process ended. Call it once the pipe is closed."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1.0)
        return self.kill()


def _search_path() -> list[str]:
    return [path or os.getcwd() for path in sys.path]  # noqa: PTH109 - a plain string
