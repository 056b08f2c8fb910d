"""What runs in the model worker's process: one job at a time, looking up between steps.

Only the main thread touches the pipe. ``progress.step`` inside a job, and ``progress.look``
in every block of a model, come here to look for a cancel; ``progress.pause`` also takes in
a more urgent job and runs it before the first goes on.
"""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from analysis import log_lines
from analysis.contract.progress import listening
from analysis.errors import AnalysisError, CancelledError
from analysis.worker.messages import (
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

#: Set before torch is imported: spinning threads made a forward 2 to 8 times slower, and each of
#: glibc's arenas keeps the largest mess that was made in it.
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "MALLOC_ARENA_MAX": "2"}

#: The setting that says what log lines look like.
LOG_FORMAT = "STRATASCOPE_LOG_FORMAT"

#: On a processor that both share, pictures that are there already go before new ones.
NICE = 5

_REPORT_EVERY_S = 0.05
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

    def serve(self) -> None:
        """Do what comes, until the other end closes."""
        self._say(Ready())
        while True:
            if not self._waiting:
                self._take_in(self._pipe.recv())
            self._drain()
            while self._waiting:
                self._do(self._waiting.pop(0))

    def _say(self, message: Any) -> None:
        try:
            self._pipe.send(message)
        except OSError:
            os._exit(0)  # nobody is left to hear it

    def _drain(self) -> None:
        try:
            while self._pipe.poll():
                self._take_in(self._pipe.recv())
        except (EOFError, OSError):
            os._exit(0)  # nobody is left to answer

    def _take_in(self, message: Any) -> None:
        if isinstance(message, Run):
            self._waiting.append(message)
        elif isinstance(message, Cancel):
            self._cancelled.add(message.number)

    def _do(self, run: Run) -> None:
        self._say(Started(run.number))
        try:
            self._say(Done(run.number, self._compute(run)))
        except AnalysisError as error:
            self._fail(run, type(error).__name__, error.message, error.hint)
        except MemoryError:
            self._fail(
                run,
                "AnalysisError",
                "There is not enough memory for this request.",
                "Try a shorter prompt or a smaller model.",
            )
        except Exception:  # noqa: BLE001 - a bug in one job is not the worker's end
            found = secrets.token_hex(4)
            _log.exception("a bug in %s, shown as %s", run.request.kind, found)
            self._fail(
                run,
                "AnalysisError",
                f"Something went wrong inside the {run.request.kind} computation.",
                f"The log has the details under {found}; please report it. Other views may still "
                "work.",
            )
        finally:
            self._cancelled.discard(run.number)

    def _compute(self, run: Run) -> Answer:
        reported, last_label = 0.0, ""

        def check() -> None:
            """Hear what has come in, and stop if this run is no longer wanted."""
            self._drain()
            if run.number in self._cancelled:
                raise CancelledError

        def step(done: int, total: int, label: str) -> None:
            """Look for a cancel; report, but not more often than anyone can read."""
            nonlocal reported, last_label
            check()
            now = time.monotonic()
            if label != last_label or now - reported > _REPORT_EVERY_S:
                reported, last_label = now, label
                self._say(Stepped(run.number, done, total, label))

        def pause() -> None:
            """Do more urgent requests here and now, then go on."""
            check()
            while self._waiting:
                self._do(self._waiting.pop(0))
                self._say(Started(run.number))
            check()

        with listening(step, pause, check):
            check()
            return self._work(run.request, run.limits)

    def _fail(self, run: Run, kind: str, message: str, hint: str) -> None:
        self._say(Failed(run.number, kind, message, hint))


def resolve(name: str) -> Work:
    """The function that ``package.module:function`` names."""
    module, _, function = name.partition(":")
    work: Work = getattr(importlib.import_module(module), function)
    return work


def _exit_with_parent() -> None:
    """Standard input is held open by the parent; its end is the parent's end."""
    with open(0, "rb", buffering=0, closefd=False) as lifeline:
        lifeline.read()
    os._exit(0)


def main(descriptor: int, function: str) -> None:
    """Serve on the inherited end of a pipe.

    Args:
        descriptor: Its file descriptor.
        function: Dotted name of what does the work.
    """
    os.environ.update(ENVIRONMENT)
    for stop in (signal.SIGINT, signal.SIGTERM):  # the parent's business: it may want to finish
        signal.signal(stop, signal.SIG_IGN)
    with suppress(OSError):
        os.nice(NICE)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    log_lines.handle(logging.WARNING, log_lines.lines_for(os.environ.get(LOG_FORMAT, "auto")))
    try:
        Child(Connection(descriptor), resolve(function)).serve()
    except (EOFError, OSError):
        os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
