"""What was sent to the worker: one computation that runs, under it any laid aside for it."""

from __future__ import annotations

from collections.abc import Iterator

from analysis.worker.flight import Flight
from analysis.worker.queue import Entry


class Aboard:
    """Computations in the worker, the last sent on top. Its owner holds a lock."""

    def __init__(self) -> None:
        self._stack: list[list[Entry]] = []

    def __len__(self) -> int:
        return len(self._stack)

    def __iter__(self) -> Iterator[Flight]:
        return iter([entries[0].flight for entries in self._stack])

    def add(self, entries: list[Entry]) -> Flight:
        """Put a computation on top: all wishes for it, as the queue gave them."""
        self._stack.append(entries)
        return entries[0].flight

    def find(self, number: int) -> Flight | None:
        """The computation with this number, if it is aboard."""
        return next((flight for flight in self if flight.number == number), None)

    def remove(self, flight: Flight) -> None:
        """Take a computation off."""
        self._stack = [entries for entries in self._stack if entries[0].flight is not flight]

    def empty(self) -> list[list[Entry]]:
        """Take all off."""
        stack, self._stack = self._stack, []
        return stack

    @property
    def top(self) -> Flight | None:
        """The last that was sent."""
        return self._stack[-1][0].flight if self._stack else None

    def yields_to(self, priority: int) -> bool:
        """Whether a computation of this priority may be sent now."""
        return not self._stack or priority < min(entry.priority for entry in self._stack[-1])

    def running(self, flight: Flight) -> None:
        """This one is being worked on now, and no other."""
        for other in self:
            other.clock.stop()
        flight.clock.start()

    def culprit(self, was_ready: bool) -> Flight | None:
        """What the worker was at when it died: the one that was running.

        None if it died idle, before it began what was sent last; but one that keeps dying so,
        or that died before it was ready at all, is held against what was sent.
        """
        for flight in self:
            if flight.clock.running:
                return flight
        top = self.top
        return None if was_ready and top is not None and not top.returned else top
