"""Starting the model worker's process, and noticing its end."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any

from analysis.worker.child import ENVIRONMENT


class Doorbell:
    """Rung from any thread; ``handle`` is what the waiting thread waits on."""

    def __init__(self) -> None:
        self.handle, self._button = multiprocessing.Pipe(duplex=False)
        self._rung = False
        self._lock = threading.Lock()

    def ring(self) -> None:
        """Wake the waiting thread; once is enough until it answers."""
        with self._lock:
            if not self._rung and not self._button.closed:
                self._rung = True
                self._button.send_bytes(b"!")

    def answer(self) -> None:
        """The waiting thread is awake."""
        with self._lock:
            self.handle.recv_bytes()
            self._rung = False

    def close(self) -> None:
        """Let go of the pipe; ringing does nothing from now on."""
        with self._lock:
            self.handle.close()
            self._button.close()


class WorkerProcess:
    """A fresh interpreter that runs ``analysis.worker.child``, and the pipe to it.

    It is started by exec, never by a bare fork (a fork after a threaded forward
    pass hangs, and CUDA can't be used after one), and not by multiprocessing's
    own spawn, which would import the web server's main module once more.

    Args:
        function: Dotted name of what does the work.
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
        """Its process id."""
        return self._process.pid

    def send(self, message: Any) -> None:
        """Send a message; one to a dead worker is lost, its end shows in the pipe."""
        with suppress(OSError):
            self.pipe.send(message)

    def kill(self) -> str:
        """End it now, and say how it ended."""
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()
        self._process.kill()
        code = self._process.wait()
        self.pipe.close()
        return f"signal {-code}" if code < 0 else f"exit status {code}"

    def end(self) -> str:
        """How it ended, once its end of the pipe is closed."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1.0)
        return self.kill()


def _search_path() -> list[str]:
    return [path or os.getcwd() for path in sys.path]  # noqa: PTH109 - a plain string
