"""The model worker's process: the web process's end, and the worker's end, which runs the jobs.

The worker runs one job at a time. Only its main thread reads from the pipe; a second thread sends
signs of life. ``jobs.step`` inside a job, and ``jobs.check_cancelled`` in every block of a
model, check for a cancel. ``jobs.pause`` also runs more urgent jobs before the first continues.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import multiprocessing
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import psutil

from analysis import log_lines
from analysis.contract.jobs import give_way, listening
from analysis.errors import AnalysisError, CancelledError
from analysis.worker.messages import (
    Alive,
    Answer,
    Cancel,
    Done,
    Failed,
    Limits,
    Ready,
    Request,
    Run,
    Started,
    Stepped,
)

Work = Callable[[Request, Limits], Answer]

#: Set before torch is imported. Spinning threads made a forward pass 2 to 8 times slower. Each
#: arena of glibc keeps the largest amount of memory that was ever used in it.
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "MALLOC_ARENA_MAX": "2"}

#: The setting for the format of log lines.
LOG_FORMAT = "STRATASCOPE_LOG_FORMAT"

#: Niceness: on shared cores, the web process answers known views before new ones are computed.
NICE = 5

#: Seconds that long work waits after a click, because a page asks for one view after the other.
LULL_S = 0.3

#: In place of a message of the worker: its process has ended.
ENDED = "ended"
#: Seconds to wait for a killed process, and between two signs of life.
END_S, ALIVE_S = 5.0, 1.0

_REPORT_EVERY_S = 0.05
_PR_SET_PDEATHSIG = 1
_log = logging.getLogger("stratascope.worker")


class Child:
    """The worker's side of the pipe.

    Args:
        pipe: To the web process.
        work: What computes an answer.
    """

    def __init__(self, pipe: Connection, work: Work) -> None:
        self._pipe = pipe
        self._work = work
        self._cancelled: set[int] = set()
        self._waiting: list[Run] = []
        self._sending = threading.Lock()

    def serve(self) -> None:
        """Run requests until the other end closes."""
        threading.Thread(target=self._show_life, daemon=True).start()
        self._send(Ready())
        while True:
            if not self._waiting:
                self._accept(self._pipe.recv())
            self._receive_all()
            while self._waiting:
                self._run(self._waiting.pop(0))

    def _show_life(self) -> None:
        while True:
            time.sleep(ALIVE_S)
            self._send(Alive())

    def _send(self, message: Any) -> None:
        try:
            with self._sending:
                self._pipe.send(message)
        except OSError:
            os._exit(0)  # the web process has ended

    def _receive_all(self) -> None:
        try:
            while self._pipe.poll():
                self._accept(self._pipe.recv())
        except (EOFError, OSError):
            os._exit(0)  # the web process has ended

    def _accept(self, message: Any) -> None:
        if isinstance(message, Run):
            self._waiting.append(message)
        elif isinstance(message, Cancel):
            self._cancelled.add(message.number)

    def _run(self, run: Run) -> None:
        self._send(Started(run.number))
        try:
            self._send(Done(run.number, self._compute(run)))
        except AnalysisError as error:
            self._fail(run, type(error).__name__, error.message, error.hint)
        except MemoryError:
            self._fail(
                run,
                "AnalysisError",
                "There is not enough memory for this request.",
                "Try a shorter prompt or a smaller model.",
            )
        except BaseException:  # noqa: BLE001 - a defect, or a panic of Rust code, must not end it
            found = secrets.token_hex(4)
            _log.exception("a defect in %s, shown as %s", run.request.kind, found)
            self._fail(
                run,
                "AnalysisError",
                f"Something went wrong inside the {run.request.kind} computation.",
                f"Report the id {found}: the log has the details. Other views may work.",
            )
        finally:
            self._cancelled.discard(run.number)

    def _compute(self, run: Run) -> Answer:
        reported, last_label = 0.0, ""

        def check() -> None:
            """Read new messages; stop if this run was cancelled, or has to wait for another."""
            self._receive_all()
            if run.number in self._cancelled:
                raise CancelledError
            if self._waiting:
                give_way()

        def step(done: int, total: int, label: str) -> None:
            """Check for a cancel, and report at a readable rate."""
            nonlocal reported, last_label
            check()
            now = time.monotonic()
            if label != last_label or now - reported > _REPORT_EVERY_S:
                reported, last_label = now, label
                self._send(Stepped(run.number, done, total, label))

        def pause() -> None:
            """Run more urgent requests now, then continue when no more come."""
            check()
            while self._waiting:
                self._run(self._waiting.pop(0))
                if not self._waiting and self._pipe.poll(LULL_S):
                    self._receive_all()
                if not self._waiting:
                    self._send(Started(run.number))
            check()

        with listening(step, pause, check):
            check()
            return self._work(run.request, run.limits)

    def _fail(self, run: Run, kind: str, message: str, hint: str) -> None:
        self._send(Failed(run.number, kind, message, hint))


def resolve(name: str) -> Work:
    """Import the function that ``package.module:function`` names."""
    module, _, function = name.partition(":")
    work: Work = getattr(importlib.import_module(module), function)
    return work


def _exit_with_parent() -> None:
    """The parent keeps standard input open. When it closes, the parent has ended."""
    with open(0, "rb", buffering=0, closefd=False) as lifeline:
        lifeline.read()
    os._exit(0)


def _limit_memory() -> None:
    """Let a request that needs more than the machine's memory fail, before the system ends it all.

    CUDA reserves far more addresses than memory, so there is no limit with it.
    """
    if sys.platform != "linux" or Path("/dev/nvidiactl").exists():
        return
    import resource

    most = psutil.virtual_memory().total
    with suppress(OSError, ValueError):
        most = min(most, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def main(descriptor: int, function: str) -> None:
    """Serve requests on the inherited end of a pipe.

    Args:
        descriptor: Its file descriptor.
        function: Dotted name of the function that computes.
    """
    os.environ.update(ENVIRONMENT)
    for stop in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # the parent handles these: it may want to finish first
        signal.signal(stop, signal.SIG_IGN)
    if sys.platform == "linux":  # the system ends it with its parent, also if it is stopped
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with suppress(OSError):
        os.nice(NICE)
    _limit_memory()
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    log_lines.handle(logging.WARNING, log_lines.lines_for(os.environ.get(LOG_FORMAT, "auto")))
    try:
        Child(Connection(descriptor), resolve(function)).serve()
    except (EOFError, OSError):
        os._exit(0)


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
    """A fresh interpreter that runs ``analysis.worker.process``, and the pipe to it.

    It starts with exec. A bare fork after a threaded forward pass hangs, and CUDA does not work
    after a fork. The spawn method of multiprocessing would import the web server's main module
    again.

    Two threads use the pipe, because a process that hangs blocks whoever reads from it or writes to
    it. No method waits longer than ``END_S``.

    Args:
        function: Dotted name of the function that computes.
        wake: Called after each message, and when the process ends.
    """

    def __init__(self, function: str, wake: Callable[[], None]) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", "analysis.worker.process", str(theirs.fileno()), function],
                stdin=subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                env={**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(_search_path())},
            )
        finally:
            theirs.close()
        self.ready = False
        self._wake = wake
        self._inbox: SimpleQueue[Any] = SimpleQueue()
        self._outbox: SimpleQueue[Any] = SimpleQueue()
        self._heard, self._spent = False, 0.0
        self._threads = [
            threading.Thread(target=work, name=f"model-worker-{work.__name__}", daemon=True)
            for work in (self._read, self._write)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def send(self, message: Any) -> None:
        """Send a message. A message to an ended worker is lost; ``receive`` shows its end."""
        self._outbox.put(message)

    def receive(self) -> list[Any]:
        """The messages that have arrived; ``ENDED`` is the last one."""
        found = []
        with suppress(Empty):
            while True:
                found.append(self._inbox.get_nowait())
        return found

    def lives(self) -> bool:
        """Whether it sent a message or used the processor since the last call.

        Code that keeps Python's lock sends nothing, but computes. A process that was stopped, or
        that waits for a lock, does neither.
        """
        heard, self._heard = self._heard, False
        spent = self._spent
        with suppress(psutil.Error):
            self._spent = sum(psutil.Process(self.pid).cpu_times()[:2])
        return heard or self._spent > spent

    def kill(self) -> str:
        """Kill the process. Returns how it ended."""
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()
        self._process.kill()
        self._outbox.put(ENDED)
        try:
            code = self._process.wait(END_S)
        except subprocess.TimeoutExpired:  # the system does not let it go
            return "killed, but not ended"
        for thread in self._threads:
            thread.join(END_S)
        if not any(thread.is_alive() for thread in self._threads):
            self._pipe.close()
        return f"signal {-code}" if code < 0 else f"exit status {code}"

    def end(self) -> str:
        """How the process ended. Call it once the pipe is closed."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1.0)
        return self.kill()

    def _read(self) -> None:
        try:
            while True:
                self._inbox.put(self._pipe.recv())
                self._heard = True
                self._wake()
        except Exception:  # noqa: BLE001 - half a message can be anything
            self._inbox.put(ENDED)
            self._wake()

    def _write(self) -> None:
        with suppress(OSError):
            while (message := self._outbox.get()) is not ENDED:
                self._pipe.send(message)


def _search_path() -> list[str]:
    return [path or os.getcwd() for path in sys.path]  # noqa: PTH109 - a plain string


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
