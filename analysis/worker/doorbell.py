"""Waking a thread that waits on pipes."""

from __future__ import annotations

import multiprocessing
import threading


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
