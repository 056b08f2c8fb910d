"""Who is served next: by priority, then each user in turn, then first come first served."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from analysis.worker.flight import Flight


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
