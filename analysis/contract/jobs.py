"""A request's context: who asks, how urgently, progress and cancellation."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum

from analysis.errors import CancelledError


class Priority(IntEnum):
    """Who goes first; lower is sooner."""

    INTERACTIVE = 0
    LONG = 10


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a request has come.

    Attributes:
        done: Steps finished.
        total: Steps in all; 0 while unknown.
        label: What is being done.
        queue_position: How many computations go before it; 0 while it runs.
    """

    done: int
    total: int
    label: str
    queue_position: int = 0


#: Whose requests are made in this context, where a job does not say.
current_user: ContextVar[str] = ContextVar("stratascope_user", default="")


class Job:
    """One person's request, from the click to the answer. It may cover several computations.

    Args:
        id: Unique; made up where none is given.
        user: Whose turn it is in the queue; equal for all requests of one person.
            ``current_user`` where none is given.
        priority: INTERACTIVE (a click) goes ahead of LONG (a suite).
        on_progress: Told how far it has come, in the thread that waits.
        deadline_s: Seconds of computing after which it is given up; None for the service's own.
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
        """Give the request up: whoever waits in it gets CancelledError."""
        self._cancelled.set()
        for wake in tuple(self._wakers):
            wake()

    def cancelled(self) -> bool:
        """Whether it was given up."""
        return self._cancelled.is_set()

    def check(self) -> None:
        """Stop here if the request was given up.

        Raises:
            CancelledError: Then.
        """
        if self.cancelled():
            raise CancelledError

    def report(self, progress: Progress) -> None:
        """Tell whoever listens how far it has come."""
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
