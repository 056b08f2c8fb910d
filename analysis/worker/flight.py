"""One computation and those who wait for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum

from analysis.errors import AnalysisError, WorkerStoppedError
from analysis.worker.messages import Answer, Request


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


@dataclass(eq=False, slots=True)
class Stopwatch:
    """Seconds a computation really ran: neither queued nor laid aside for a click."""

    now: Callable[[], float] = time.monotonic
    _spent: float = 0.0
    _since: float | None = None

    def start(self) -> None:
        """It runs (again)."""
        if self._since is None:
            self._since = self.now()

    def stop(self) -> None:
        """It is laid aside, or over."""
        if self._since is not None:
            self._spent += self.now() - self._since
            self._since = None

    @property
    def running(self) -> bool:
        """Whether time is being counted."""
        return self._since is not None

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self._spent + (self.now() - self._since if self._since is not None else 0.0)


@dataclass(eq=False, slots=True)
class Flight:
    """One computation, however many asked for it.

    Attributes:
        number: Its number in the pipe.
        key: What makes another request the same.
        request: What is computed.
        waiters: How many still want it.
        progress: The last step heard of; None before the first.
        answer: What came of it, or
        error: why nothing did.
        returned: How often it came back from a worker that had died before it began.
        cancel_sent: When the worker was told to stop, on the monotonic clock; 0 if it wasn't.
        clock: Counts the seconds it really ran.
    """

    number: int
    key: str
    request: Request
    waiters: int = 0
    progress: Progress | None = None
    answer: Answer | None = None
    error: AnalysisError | None = None
    returned: int = 0
    cancel_sent: float = 0.0
    clock: Stopwatch = field(default_factory=Stopwatch)

    @property
    def finished(self) -> bool:
        """Whether there is an answer or an error."""
        return self.answer is not None or self.error is not None


class Blame:
    """Which requests killed the worker, so that none does it a third time.

    Args:
        limit: Deaths after which a request is refused.
        forget_s: Seconds after the last of them until it may be tried again.
    """

    def __init__(self, limit: int = 2, forget_s: float = 3600.0) -> None:
        self._limit = limit
        self._forget_s = forget_s
        self._deaths: dict[str, tuple[int, float]] = {}

    def add(self, key: str) -> None:
        """The worker died while it worked on ``key``."""
        count, _ = self._deaths.pop(key, (0, 0.0))
        self._deaths[key] = (count + 1, time.monotonic())
        while len(self._deaths) > 256:
            del self._deaths[next(iter(self._deaths))]

    def clear(self, key: str) -> None:
        """``key`` was answered after all."""
        self._deaths.pop(key, None)

    def check(self, key: str) -> None:
        """Refuse ``key`` if it was the end of too many workers.

        Raises:
            WorkerStoppedError: Then.
        """
        count, last = self._deaths.get(key, (0, 0.0))
        if time.monotonic() - last > self._forget_s:
            self.clear(key)
        elif count >= self._limit:
            raise WorkerStoppedError(
                f"This request stopped the model worker {count} times and is not tried again.",
                "It may need more memory than there is: try a shorter prompt or a smaller model.",
            )
