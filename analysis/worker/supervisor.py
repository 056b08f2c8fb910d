"""The web process's side: one thread that feeds the model worker and watches over it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import wait
from typing import Any

from analysis.contract.jobs import Progress
from analysis.errors import AnalysisError, BusyError, CancelledError, WorkerStoppedError
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
from analysis.worker.process import Doorbell, WorkerProcess
from analysis.worker.queue import Blame, Entry, FairQueue, Flight


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


_log = logging.getLogger("stratascope.jobs")


@dataclass(eq=False, slots=True)
class Ticket:
    """One person's claim on a computation; ``Keeper`` alone changes it."""

    flight: Flight
    entry: Entry


class Keeper:
    """Runs requests in one resident worker process, in the queue's order.

    Args:
        function: Dotted name of what does the work, resolved in the worker.
        limits: Passed to it with every request.
        on_answer: Called with a request's key and its answer, before anybody waiting is told.
        max_queue: How many computations may wait.
        cancel_grace_s: Seconds a cancelled computation has to stop before the worker is killed.
    """

    def __init__(
        self,
        function: str,
        limits: Limits,
        on_answer: Callable[[str, Request, Answer], None],
        *,
        max_queue: int = 200,
        cancel_grace_s: float = 30.0,
    ) -> None:
        self._function = function
        self._limits = limits
        self._on_answer = on_answer
        self._max_queue = max_queue
        self._grace_s = cancel_grace_s
        self.changed = threading.Condition()  # guards all below, and tells of every change
        self._queue = FairQueue()
        self._flights: dict[str, Flight] = {}
        self._aboard = Aboard()
        self._blame = Blame()
        self._numbers = count(1)
        self._started = self._closing = False
        self._worker: WorkerProcess | None = None
        self._bell = Doorbell()
        self._thread = threading.Thread(target=self._keep, name="model-worker", daemon=True)

    # What other threads call.

    def start(self) -> None:
        """Start the thread and, ahead of the first request, the worker."""
        with self.changed:
            if not self._started:
                self._started = True
                self._thread.start()

    def close(self) -> None:
        """Stop: whatever still waits is told that it was cancelled."""
        with self.changed:
            if self._closing:
                return
            self._closing = True
        self._bell.ring()
        if self._started:
            self._thread.join()
        self._bell.close()

    def join(self, key: str, request: Request, user: str, priority: int) -> Ticket:
        """Ask for a computation: a new one, or a share in the same one under way.

        Raises:
            WorkerStoppedError: If it has killed the worker before, twice.
            BusyError: If too many wait already.
        """
        self.start()
        with self.changed:
            if self._closing:
                raise CancelledError("The server is shutting down.", "Try again in a moment.")
            flight = self._flights.get(key)
            if flight is None or flight.cancel_sent:
                flight = self._new_flight(key, request)
            flight.waiters += 1
            if self._aboard.find(flight.number) is None:
                entry = self._queue.add(flight, user, priority)
            else:
                entry = Entry(flight, user, priority, 0)
            self.changed.notify_all()
        self._bell.ring()
        return Ticket(flight, entry)

    def leave(self, ticket: Ticket) -> None:
        """Give up a claim; work that nobody wants any more is stopped."""
        with self.changed:
            ticket.flight.waiters -= 1
            self._queue.withdraw(ticket.entry)
            self.changed.notify_all()
        self._bell.ring()

    def progress(self, flight: Flight) -> Progress:
        """How far a computation has come. The caller holds ``changed``."""
        if flight.clock.running and flight.progress is not None:
            return flight.progress
        if flight.finished or self._aboard.find(flight.number) is not None:
            return flight.progress or Progress(0, 0, "Starting")
        position = self._queue.position(flight) + len(self._aboard)
        return Progress(0, 0, "Waiting", position)

    @property
    def queued(self) -> int:
        """How many computations wait."""
        with self.changed:
            return len(self._queue)

    @property
    def pid(self) -> int | None:
        """The worker's process id; None while there is none."""
        worker = self._worker
        return worker.pid if worker is not None else None

    def _new_flight(self, key: str, request: Request) -> Flight:
        self._blame.check(key)
        if len(self._queue) >= self._max_queue:
            raise BusyError("Too many requests are waiting.", "Try again in a minute.")
        flight = Flight(next(self._numbers), key, request)
        self._flights[key] = flight
        return flight

    def wake(self) -> None:
        """Have everybody who waits look again."""
        with self.changed:
            self.changed.notify_all()

    # What the thread does.

    def _keep(self) -> None:
        try:
            with self.changed:
                self._start_worker()
            while not self._closing:
                with self.changed:
                    self._stop_unwanted()
                    self._feed()
                    patience = self._patience()
                self._hear(patience)
        except Exception:
            _log.exception("a bug in the keeper of the model worker: it takes no more requests")
            raise
        finally:
            with self.changed:
                self._closing = True
                self._shut_down()

    def _hear(self, patience: float | None) -> None:
        sources: list[Any] = [self._bell.handle]
        worker = self._worker
        if worker is not None:
            sources.append(worker.pipe)
        for source in wait(sources, patience):
            if source is self._bell.handle:
                self._bell.answer()
            elif worker is not None and worker is self._worker:
                self._listen(worker)

    def _listen(self, worker: WorkerProcess) -> None:
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            with self.changed:
                self._bury(worker.end())
            return
        with self.changed:
            self._take(message)
            self.changed.notify_all()

    def _take(self, message: Any) -> None:
        if isinstance(message, Ready):
            if self._worker is not None:
                self._worker.ready = True
            return
        flight = self._aboard.find(message.number)
        if flight is None:
            return
        if isinstance(message, Started):
            self._aboard.running(flight)
            if flight.cancel_sent:
                flight.cancel_sent = time.monotonic()  # it was laid aside and can only stop now
        elif isinstance(message, Stepped):
            flight.progress = Progress(message.done, message.total, message.label)
        elif isinstance(message, Done):
            self._blame.clear(flight.key)
            self._on_answer(flight.key, flight.request, message.answer)
            self._land(flight, answer=message.answer)
        elif isinstance(message, Failed):
            self._land(flight, error=message.error())

    def _land(
        self, flight: Flight, answer: Answer | None = None, error: AnalysisError | None = None
    ) -> None:
        flight.answer, flight.error = answer, error
        flight.clock.stop()
        self._aboard.remove(flight)
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]
        self.changed.notify_all()

    def _feed(self) -> None:
        """Send the next computation, if the worker is free or the next is more urgent."""
        priority = self._queue.first_priority()
        if priority is None or not self._aboard.yields_to(priority):
            return
        flight = self._aboard.add(self._queue.pop())
        if self._worker is None:
            self._start_worker()
        if self._worker is not None:
            self._worker.send(Run(flight.number, flight.request, self._limits))
        self.changed.notify_all()

    def _stop_unwanted(self) -> None:
        """Drop what nobody waits for; tell the worker to stop it if it is at it."""
        for flight in list(self._flights.values()):
            if flight.waiters <= 0 and self._aboard.find(flight.number) is None:
                del self._flights[flight.key]
                self._queue.drop(flight)
        for flight in self._aboard:
            if flight.waiters <= 0 and not flight.cancel_sent and self._worker is not None:
                flight.cancel_sent = time.monotonic()
                self._worker.send(Cancel(flight.number))

    def _patience(self) -> float | None:
        """Seconds until a cancelled computation that does not stop costs the worker its life."""
        top = self._aboard.top
        if top is None or not top.cancel_sent:
            return None
        left = top.cancel_sent + self._grace_s - time.monotonic()
        if left <= 0 and self._worker is not None:
            _log.warning("the model worker did not stop a cancelled job: restarting it")
            self._bury(self._worker.kill())
            return 0.0
        return max(left, 0.0)

    def _start_worker(self) -> None:
        try:
            self._worker = WorkerProcess(self._function)
        except OSError as error:
            _log.exception("the model worker could not be started")
            self._lose(f"It could not be started ({error}).", was_ready=False)

    def _bury(self, how: str) -> None:
        """The worker is dead: the job it was at is lost, the others go back into the queue."""
        was_ready = self._worker is not None and self._worker.ready
        self._worker = None
        _log.error("the model worker stopped (%s)", how)
        why = "" if was_ready else f"It could not start ({how}); the server's log says why."
        self._lose(why, was_ready=was_ready)
        if was_ready and not self._closing:
            self._start_worker()
        self.changed.notify_all()

    def _lose(self, why: str, *, was_ready: bool) -> None:
        culprit = self._aboard.culprit(was_ready)
        for entries in self._aboard.empty():
            flight = entries[0].flight
            flight.clock.stop()
            if flight is culprit:
                continue
            if flight.cancel_sent:
                self._land(flight, error=CancelledError())
            else:
                flight.progress = None
                flight.returned += 1
                self._queue.put_back(entries)
        if culprit is not None:
            if was_ready:
                self._blame.add(culprit.key)
            message = f"The model worker stopped while it worked on this. {why}".strip()
            self._land(culprit, error=WorkerStoppedError(message, "Run it again."))

    def _shut_down(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker = None
        for flight in list(self._flights.values()):
            self._land(flight, error=CancelledError("The server is shutting down.", ""))
