"""The context of a request: user, priority, progress and cancellation."""

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
