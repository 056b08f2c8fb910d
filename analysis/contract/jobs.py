"""The context of a request (user, priority), its progress and its cancellation.

A computation calls ``step``, ``pause`` and ``check_cancelled``. The code that started it receives
the calls with ``listening``, and may raise ``CancelledError`` in them to stop the work. Without a
listener the calls cost almost nothing.
"""

from __future__ import annotations

import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

from analysis.errors import CancelledError

Result = TypeVar("Result")

#: Receives ``step``: (done, total, label). It raises CancelledError to stop the work.
Listener = Callable[[int, int, str], None]

#: Receives ``pause``: it may run other work. It raises CancelledError to stop the work.
PauseListener = Callable[[], None]

#: Receives ``check_cancelled``: it raises CancelledError to stop the work.
CancelListener = Callable[[], None]

_listener: ContextVar[Listener | None] = ContextVar("stratascope_progress", default=None)
_on_pause: ContextVar[PauseListener | None] = ContextVar("stratascope_pause", default=None)
_on_check: ContextVar[CancelListener | None] = ContextVar("stratascope_cancel", default=None)
_can_repeat: ContextVar[bool] = ContextVar("stratascope_repeat", default=False)


class BrokenOffError(BaseException):
    """More urgent work came during a pass that can be repeated.

    It is not an ``Exception``, because a pass may try another way after each of those.
    """


def step(done: int, total: int, label: str) -> None:
    """Report that ``done`` of ``total`` steps of ``label`` are finished.

    Raises:
        CancelledError: If the work was cancelled.
    """
    listener = _listener.get()
    if listener is not None:
        listener(done, total, label)


def pause() -> None:
    """Let more urgent work, such as a click, run now in this thread.

    Long work calls it between its chunks (prompts, batches), at least twice a second. Call it
    only outside a forward pass and with no hooks on the model, since the other work may run the
    same model.

    Raises:
        CancelledError: If the work was cancelled.
    """
    on_pause = _on_pause.get()
    if on_pause is not None:
        on_pause()


def check_cancelled() -> None:
    """Stop if the work was cancelled; every block of a model calls it during a forward pass.

    Raises:
        CancelledError: If the work was cancelled.
    """
    on_check = _on_check.get()
    if on_check is not None:
        on_check()


def repeatable(run: Callable[[], Result]) -> Result:
    """The result of a long forward pass. More urgent work, such as a click, does not wait for it.

    The pass is broken off at its next block, and is run again after the other work.

    Args:
        run: Runs the pass. It must leave nothing behind if it is stopped.

    Raises:
        CancelledError: If the work was cancelled.
    """
    while True:
        pause()
        token = _can_repeat.set(True)
        try:
            return run()
        except BrokenOffError:
            continue
        finally:
            _can_repeat.reset(token)


def give_way() -> None:
    """Break off a pass that can be repeated, because more urgent work waits.

    Raises:
        BrokenOffError: Inside of ``repeatable``.
    """
    if _can_repeat.get():
        raise BrokenOffError


@contextmanager
def listening(
    on_step: Listener | None,
    on_pause: PauseListener | None = None,
    on_check: CancelListener | None = None,
) -> Iterator[None]:
    """Receive the calls of ``step``, ``pause`` and ``check_cancelled`` inside this block."""
    tokens = _listener.set(on_step), _on_pause.set(on_pause), _on_check.set(on_check)
    try:
        yield
    finally:
        _on_check.reset(tokens[2])
        _on_pause.reset(tokens[1])
        _listener.reset(tokens[0])


@contextmanager
def part(number: int, total: int, label: str) -> Iterator[None]:
    """Report the steps inside this block as the one step ``number`` of ``total``.

    Each still stops the work if it was cancelled.
    """
    outer = _listener.get()
    token = _listener.set(None if outer is None else lambda *_: outer(number, total, label))
    try:
        yield
    finally:
        _listener.reset(token)


def on_terminal(done: int, total: int, label: str) -> None:
    """A listener that updates one line on a terminal, and writes nothing if there is none."""
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{label} {done} of {total} ", end=end, file=sys.stderr, flush=True)


class Priority(IntEnum):
    """Order in the queue; lower goes first."""

    INTERACTIVE = 0
    LONG = 10


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a request.

    Attributes:
        done: Finished steps.
        total: All steps; 0 while unknown.
        label: Description of the current work.
        queue_position: Number of computations ahead in the queue; 0 while it runs.
    """

    done: int
    total: int
    label: str
    queue_position: int = 0


def share(most: int) -> int:
    """The part of a common limit that one user may take: a quarter, at least 1."""
    return max(1, most // 4)


#: The user of the requests in this context, for jobs without a user.
current_user: ContextVar[str] = ContextVar("stratascope_user", default="")


class Job:
    """One request of a user, from the click to the answer. It may take several computations.

    Args:
        id: Unique; generated if empty.
        user: The user, for fairness in the queue; ``current_user`` if empty.
        priority: INTERACTIVE (a click) goes before LONG (a suite).
        on_progress: Called with the progress, in the waiting thread.
        deadline_s: Seconds of computing before it fails; None for the service's own.
    """

    def __init__(
        self,
        id: str = "",
        user: str = "",
        priority: Priority = Priority.INTERACTIVE,
        on_progress: Callable[[Progress], None] | None = None,
        deadline_s: float | None = None,
    ) -> None:
        self.id = id or uuid.uuid4().hex
        self.user = user or current_user.get()
        self.priority = priority
        self.on_progress = on_progress
        self.deadline_s = deadline_s
        self._cancelled = threading.Event()
        self._wakers: list[Callable[[], None]] = []

    def cancel(self) -> None:
        """Cancel the request: the waiting thread gets CancelledError."""
        self._cancelled.set()
        for wake in tuple(self._wakers):
            wake()

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._cancelled.is_set()

    def check(self) -> None:
        """Stop here if the request was cancelled.

        Raises:
            CancelledError: If it was.
        """
        if self.cancelled():
            raise CancelledError

    def report(self, progress: Progress) -> None:
        """Pass the progress to ``on_progress``."""
        if self.on_progress is not None:
            self.on_progress(progress)

    @contextmanager
    def waking(self, wake: Callable[[], None]) -> Iterator[None]:
        """Call ``wake`` when the request is cancelled inside this block."""
        self._wakers.append(wake)
        try:
            yield
        finally:
            self._wakers.remove(wake)
