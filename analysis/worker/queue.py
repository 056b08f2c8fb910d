"""Computations, the users who wait for them, and the order in which they run."""

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
    """Seconds that a computation ran: neither queued nor paused for a click."""

    now: Callable[[], float] = time.monotonic
    _spent: float = 0.0
    _since: float | None = None

    def start(self) -> None:
        """Start or continue counting."""
        if self._since is None:
            self._since = self.now()

    def stop(self) -> None:
        """Stop counting."""
        if self._since is not None:
            self._spent += self.now() - self._since
            self._since = None

    @property
    def running(self) -> bool:
        """Whether time is being counted."""
        return self._since is not None

    @property
    def seconds(self) -> float:
        """Seconds counted so far."""
        return self._spent + (self.now() - self._since if self._since is not None else 0.0)


@dataclass(eq=False, slots=True)
class Computation:
    """One computation, shared by all users who requested it.

    Attributes:
        number: Its number in messages to the worker.
        key: Its memo key. Requests with equal keys share one computation.
        request: What is computed.
        waiters: Number of users who wait for it.
        progress: The last reported step; None before the first.
        answer: The result, once there is one.
        error: The reason why there is none.
        returned: How often a worker ended after it was sent and before it started.
        cancel_sent: Monotonic time at which the worker was asked to stop it; 0 if never.
        clock: Counts the seconds that it ran.
        turn_from: What the clock showed when its turn began.
        turns: How many turns it had.
        yielding: Whether it was stopped so that another user's work has a turn.
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
    turn_from: float = 0.0
    turns: int = 0
    yielding: bool = False

    @property
    def finished(self) -> bool:
        """Whether there is an answer or an error."""
        return self.answer is not None or self.error is not None


class CrashHistory:
    """Requests that ended the worker, so that none does so a third time.

    Args:
        limit: Number of crashes after which a request is refused.
        forget_s: Seconds after the last crash until the request may be tried again.
    """

    def __init__(self, limit: int = 2, forget_s: float = 3600.0) -> None:
        self._limit = limit
        self._forget_s = forget_s
        self._crashes: dict[str, tuple[int, float]] = {}

    def add(self, key: str) -> None:
        """Note that the worker ended while it computed ``key``."""
        count, _ = self._crashes.pop(key, (0, 0.0))
        self._crashes[key] = (count + 1, time.monotonic())
        while len(self._crashes) > 256:
            del self._crashes[next(iter(self._crashes))]

    def clear(self, key: str) -> None:
        """Forget the crashes of ``key``: it was answered."""
        self._crashes.pop(key, None)

    def check(self, key: str) -> None:
        """Refuse ``key`` if it ended too many workers.

        Raises:
            WorkerStoppedError: If it did.
        """
        count, last = self._crashes.get(key, (0, 0.0))
        if time.monotonic() - last > self._forget_s:
            self.clear(key)
        elif count >= self._limit:
            raise WorkerStoppedError(
                f"This request stopped the model worker {count} times. It is not tried again.",
                "It may need too much memory. Try a shorter prompt or a smaller model.",
            )


@dataclass(eq=False, slots=True)
class Entry:
    """One user's request for one computation."""

    computation: Computation
    user: str
    priority: int
    order: int


class FairQueue:
    """Waiting computations. Not thread-safe: the owner holds a lock.

    The order is by priority, then by user in turn, then by arrival. A computation that several
    users requested has one entry for each, with that user's priority. All entries leave together,
    so sharing a computation never makes a user wait longer.
    """

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._served: dict[str, int] = {}
        self._ticks = count(1)
        self._arrivals = count(1)

    def __len__(self) -> int:
        return len({id(entry.computation) for entry in self._entries})

    def waiting(self, user: str) -> int:
        """Number of a user's entries."""
        return sum(entry.user == user for entry in self._entries)

    def others_wait(self, entries: list[Entry]) -> bool:
        """Whether another user waits, who has none of these entries."""
        users = {entry.user for entry in entries}
        return any(entry.user not in users for entry in self._entries)

    def add(self, computation: Computation, user: str, priority: int) -> Entry:
        """Add a user's entry."""
        entry = Entry(computation, user, priority, next(self._arrivals))
        self._entries.append(entry)
        return entry

    def put_back(self, entries: list[Entry]) -> None:
        """Return entries that were removed and could not be served to their old places."""
        self._entries.extend(entries)

    def withdraw(self, entry: Entry) -> None:
        """Remove one user's entry, if it still waits."""
        self._entries = [other for other in self._entries if other is not entry]

    def drop(self, computation: Computation) -> None:
        """Remove every entry of a computation."""
        self._entries = [entry for entry in self._entries if entry.computation is not computation]

    def pop(self) -> list[Entry]:
        """Remove and return all entries of the next computation; empty if none waits."""
        first = next(self._in_turn(), None)
        if first is None:
            return []
        taken = [entry for entry in self._entries if entry.computation is first.computation]
        self.drop(first.computation)
        self._served[first.user] = next(self._ticks)
        self._forget_absent()
        return taken

    def first_priority(self) -> int | None:
        """The priority of the next computation; None if none waits."""
        return min((entry.priority for entry in self._entries), default=None)

    def position(self, computation: Computation) -> int:
        """Number of computations before it."""
        before: list[Computation] = []
        for entry in self._in_turn():
            if entry.computation is computation:
                break
            if entry.computation not in before:
                before.append(entry.computation)
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


class SentComputations:
    """Computations that the worker has, the last sent on top. The owner holds a lock."""

    def __init__(self) -> None:
        self._stack: list[list[Entry]] = []

    def __len__(self) -> int:
        return len(self._stack)

    def __iter__(self) -> Iterator[Computation]:
        return iter([entries[0].computation for entries in self._stack])

    def add(self, entries: list[Entry]) -> Computation:
        """Put a computation on top, with all its queue entries."""
        self._stack.append(entries)
        return entries[0].computation

    def entries(self, computation: Computation) -> list[Entry]:
        """The queue entries of a computation."""
        return next(found for found in self._stack if found[0].computation is computation)

    def find(self, number: int) -> Computation | None:
        """The computation with this number, or None."""
        return next((computation for computation in self if computation.number == number), None)

    def remove(self, computation: Computation) -> None:
        """Remove a computation."""
        self._stack = [
            entries for entries in self._stack if entries[0].computation is not computation
        ]

    def empty(self) -> list[list[Entry]]:
        """Remove and return all entries."""
        stack, self._stack = self._stack, []
        return stack

    @property
    def top(self) -> Computation | None:
        """The computation that was sent last."""
        return self._stack[-1][0].computation if self._stack else None

    def yields_to(self, priority: int) -> bool:
        """Whether a computation of this priority may be sent now."""
        return not self._stack or priority < min(entry.priority for entry in self._stack[-1])

    def running(self, computation: Computation) -> None:
        """Note that the worker now runs this computation and no other."""
        for other in self:
            other.clock.stop()
        computation.clock.start()

    def culprit(self, was_ready: bool) -> Computation | None:
        """The computation that ended the worker: the one that was running.

        None if the worker ended idle, before it started what was sent last. If that happens twice,
        or the worker was never ready, the computation sent last counts as the cause.
        """
        for computation in self:
            if computation.clock.running:
                return computation
        top = self.top
        return None if was_ready and top is not None and not top.returned else top
