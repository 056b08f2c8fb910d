"""One computation, those who wait for it, and which comes next."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

from analysis.contract.jobs import Progress
from analysis.errors import AnalysisError, WorkerStoppedError
from analysis.worker.messages import Answer, Request


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


@dataclass(eq=False, slots=True)
class Entry:
    """One person's wish for one computation."""

    flight: Flight
    user: str
    priority: int
    order: int


class FairQueue:
    """Computations that wait. Not safe for several threads: its owner holds a lock.

    A computation that several asked for stands once in each one's line, with
    each one's priority, and leaves all lines together: joining makes nobody
    wait longer.
    """

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._served: dict[str, int] = {}
        self._ticks = count(1)
        self._arrivals = count(1)

    def __len__(self) -> int:
        return len({id(entry.flight) for entry in self._entries})

    def add(self, flight: Flight, user: str, priority: int) -> Entry:
        """Put a wish in line."""
        entry = Entry(flight, user, priority, next(self._arrivals))
        self._entries.append(entry)
        return entry

    def put_back(self, entries: list[Entry]) -> None:
        """Return wishes that were taken out and could not be served, to where they stood."""
        self._entries.extend(entries)

    def withdraw(self, entry: Entry) -> None:
        """Take one person's wish out of the line, if it still stands there."""
        self._entries = [other for other in self._entries if other is not entry]

    def drop(self, flight: Flight) -> None:
        """Take every wish for a computation out of the line."""
        self._entries = [entry for entry in self._entries if entry.flight is not flight]

    def pop(self) -> list[Entry]:
        """Take out the next computation: every wish for it. Empty if nobody waits."""
        first = next(self._in_turn(), None)
        if first is None:
            return []
        taken = [entry for entry in self._entries if entry.flight is first.flight]
        self.drop(first.flight)
        self._served[first.user] = next(self._ticks)
        self._forget_absent()
        return taken

    def first_priority(self) -> int | None:
        """The priority of the next computation; None if nobody waits."""
        return min((entry.priority for entry in self._entries), default=None)

    def position(self, flight: Flight) -> int:
        """How many computations go before it."""
        before: list[Flight] = []
        for entry in self._in_turn():
            if entry.flight is flight:
                break
            if entry.flight not in before:
                before.append(entry.flight)
        return len(before)

    def _in_turn(self) -> Iterator[Entry]:
        for priority in sorted({entry.priority for entry in self._entries}):
            yield from self._round_robin(priority)

    def _round_robin(self, priority: int) -> Iterator[Entry]:
        lines: dict[str, list[Entry]] = {}
        for entry in sorted(self._entries, key=lambda entry: entry.order):
            if entry.priority == priority:
                lines.setdefault(entry.user, []).append(entry)
        users = sorted(lines, key=lambda user: self._served.get(user, 0))
        for turn in range(max(map(len, lines.values()), default=0)):
            yield from (lines[user][turn] for user in users if turn < len(lines[user]))

    def _forget_absent(self) -> None:
        if len(self._served) > 1000:
            oldest = min(self._served, key=self._served.__getitem__)
            del self._served[oldest]
