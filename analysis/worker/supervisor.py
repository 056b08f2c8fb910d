"""The web process's side: one thread sends requests to the model worker and watches it."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import wait
from typing import Any

from analysis.contract.jobs import Progress, share
from analysis.errors import AnalysisError, BusyError, CancelledError, WorkerStoppedError
from analysis.worker.messages import (
    Alive,
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
from analysis.worker.process import ENDED, Wakeup, WorkerProcess
from analysis.worker.queue import (
    Computation,
    CrashHistory,
    Entry,
    FairQueue,
    SentComputations,
)

_log = logging.getLogger("stratascope.jobs")

#: Seconds between two checks that the worker lives; most seconds until it accepts requests, and
#: until it starts one that it was sent.
CHECK_S, START_S, IDLE_S = 1.0, 300.0, 60.0
#: Seconds that long work computes before another user's work has a turn, the first time.
TURN_S = 10.0


@dataclass(eq=False, slots=True)
class Ticket:
    """One user's share in a computation. Only ``Supervisor`` changes it."""

    computation: Computation
    entry: Entry


class Supervisor:
    """Runs requests in one resident worker process, in the queue's order.

    Args:
        function: Dotted name of the function that computes, resolved in the worker.
        limits: Limit of the queue; the worker gets all of them with every request.
        on_answer: Called with a request's key and its answer, before the waiting threads wake.
        recent: Gives what ``on_answer`` stored for a key, or None. A request whose equal ended
            between its look into the memo and ``join`` is answered from here.
        cancel_grace_s: Seconds that a cancelled computation has to stop before the worker is
            killed.
    """

    def __init__(
        self,
        function: str,
        limits: Limits,
        on_answer: Callable[[str, Request, Answer], None],
        recent: Callable[[str], bytes | None] = lambda _key: None,
        *,
        cancel_grace_s: float = 30.0,
    ) -> None:
        self._function = function
        self._limits = limits
        self._on_answer = on_answer
        self._recent = recent
        self._grace_s = cancel_grace_s
        self._silent = self._idle = 0  # checks in a row without life, and with work not started
        self._checked_at = 0.0
        self.changed = threading.Condition()  # guards all below; notified of every change
        self._queue = FairQueue()
        self._computations: dict[str, Computation] = {}
        self._sent = SentComputations()
        self._crashes = CrashHistory()
        self._numbers = count(1)
        self._started = self._closing = False
        self._worker: WorkerProcess | None = None
        self._wakeup = Wakeup()
        self._thread = threading.Thread(target=self._run, name="model-worker", daemon=True)

    # Called by other threads.

    def start(self) -> None:
        """Start the thread and, ahead of the first request, the worker."""
        with self.changed:
            if not self._started:
                self._started = True
                self._thread.start()

    def close(self) -> None:
        """Stop. Everything that still waits is cancelled."""
        with self.changed:
            if self._closing:
                return
            self._closing = True
        self._wakeup.wake()
        if self._started:
            self._thread.join()
        self._wakeup.close()

    def join(self, key: str, request: Request, user: str, priority: int) -> Ticket:
        """Request a computation: start a new one, or share an equal one that is under way.

        Raises:
            WorkerStoppedError: If this request has already ended the worker twice.
            BusyError: If the queue is full, or this user has a quarter of it.
            CancelledError: If the server is shutting down.
        """
        self.start()
        with self.changed:
            if self._closing:
                raise CancelledError("The server is shutting down.", "Try again in a moment.")
            computation = self._computations.get(key)
            if computation is None or computation.cancel_sent:
                computation = self._new_computation(key, request, user)
            computation.waiters += 1
            if not computation.finished and self._sent.find(computation.number) is None:
                entry = self._queue.add(computation, user, priority)
            else:
                entry = Entry(computation, user, priority, 0)
            self.changed.notify_all()
        self._wakeup.wake()
        return Ticket(computation, entry)

    def leave(self, ticket: Ticket) -> None:
        """Give up a ticket. Work that nobody waits for is stopped."""
        with self.changed:
            ticket.computation.waiters -= 1
            self._queue.withdraw(ticket.entry)
            self.changed.notify_all()
        self._wakeup.wake()

    def progress(self, computation: Computation) -> Progress:
        """The progress of a computation. The caller holds ``changed``."""
        if computation.clock.running and computation.progress is not None:
            return computation.progress
        if computation.finished or self._sent.find(computation.number) is not None:
            return computation.progress or Progress(0, 0, "Starting")
        position = self._queue.position(computation) + len(self._sent)
        return Progress(0, 0, "Waiting", position)

    @property
    def queued(self) -> int:
        """Number of waiting computations."""
        with self.changed:
            return len(self._queue)

    @property
    def pid(self) -> int | None:
        """The worker's process id; None while there is none."""
        worker = self._worker
        return worker.pid if worker is not None else None

    def _new_computation(self, key: str, request: Request, user: str) -> Computation:
        stored = self._recent(key)
        if stored is not None:
            return Computation(0, key, request, answer=Answer(stored, request.fingerprint))
        self._crashes.check(key)
        if len(self._queue) >= self._limits.max_queue:
            raise BusyError("Too many requests are waiting.", "Try again in a minute.")
        if self._queue.waiting(user) >= share(self._limits.max_queue):
            raise BusyError(
                "Too many of your requests are waiting.", "Wait until some have finished."
            )
        computation = Computation(next(self._numbers), key, request)
        self._computations[key] = computation
        return computation

    def wake(self) -> None:
        """Wake every waiting thread."""
        with self.changed:
            self.changed.notify_all()

    # Run by the supervisor's own thread.

    def _run(self) -> None:
        try:
            with self.changed:
                self._start_worker()
            while not self._closing:
                with self.changed:
                    self._stop_unwanted()
                    self._take_turns()
                    self._send_next()
                    patience = self._seconds_until_kill()
                self._receive(min(patience, CHECK_S))
                self._check_life()
        except Exception:
            _log.exception("the supervisor of the model worker failed and accepts no more requests")
            raise
        finally:
            with self.changed:
                self._closing = True
                self._shut_down()

    def _receive(self, patience: float) -> None:
        if wait([self._wakeup.handle], patience):
            self._wakeup.acknowledge()
        if self._worker is None:
            return
        for message in self._worker.receive():
            with self.changed:
                if message == ENDED:
                    self._worker_ended(self._worker.end())
                    return
                self._handle(message)
                self.changed.notify_all()

    def _check_life(self) -> None:
        """Replace a worker that shows no life, or that does not start what it was sent.

        The checks are counted, not timed: if this process was stopped too, it is one check.
        """
        now = time.monotonic()
        if self._worker is None or now - self._checked_at < CHECK_S:
            return
        self._checked_at = now
        self._silent = 0 if self._worker.lives() else self._silent + 1
        works = any(computation.clock.running for computation in self._sent)
        self._idle = 0 if works or not self._sent else self._idle + 1
        idle_s = IDLE_S if self._worker.ready else START_S
        if self._silent * CHECK_S > self._limits.silence_s or self._idle * CHECK_S > idle_s:
            _log.error("the model worker shows no sign of life; replacing it")
            with self.changed:
                self._worker_ended(self._worker.kill())

    def _handle(self, message: Any) -> None:
        if isinstance(message, Ready):
            if self._worker is not None:
                self._worker.ready = True
            return
        computation = None if message == Alive() else self._sent.find(message.number)
        if computation is None:
            return
        if isinstance(message, Started):
            self._sent.running(computation)
            if computation.cancel_sent:
                computation.cancel_sent = time.monotonic()  # it was paused, and can stop only now
        elif isinstance(message, Stepped):
            computation.progress = Progress(message.done, message.total, message.label)
        elif isinstance(message, Done):
            self._crashes.clear(computation.key)
            self._on_answer(computation.key, computation.request, message.answer)
            self._finish(computation, answer=message.answer)
        elif isinstance(message, Failed) and computation.yielding and computation.waiters > 0:
            self._requeue(computation)
        elif isinstance(message, Failed):
            self._finish(computation, error=message.error())

    def _finish(
        self,
        computation: Computation,
        answer: Answer | None = None,
        error: AnalysisError | None = None,
    ) -> None:
        computation.answer, computation.error = answer, error
        computation.clock.stop()
        self._sent.remove(computation)
        if self._computations.get(computation.key) is computation:
            del self._computations[computation.key]
        self.changed.notify_all()

    def _send_next(self) -> None:
        """Send the next computation if the worker is free or the next one is more urgent."""
        priority = self._queue.first_priority()
        if priority is None or not self._sent.yields_to(priority):
            return
        computation = self._sent.add(self._queue.pop())
        if self._worker is None:
            self._start_worker()
        if self._worker is not None:
            self._worker.send(Run(computation.number, computation.request, self._limits))
        self.changed.notify_all()

    def _take_turns(self) -> None:
        """Stop work that can be continued if another user waits and its turn is over.

        Each turn is twice as long as the one before. So the work ends even if a turn keeps nothing.
        """
        top = self._sent.top
        if top is None or self._worker is None or not top.request.resumable or top.yielding:
            return
        spent = top.clock.seconds - top.turn_from
        if spent >= TURN_S * 2**top.turns and self._queue.others_wait(self._sent.entries(top)):
            top.yielding = True
            self._worker.send(Cancel(top.number))

    def _requeue(self, computation: Computation) -> None:
        """Let a computation that was stopped for another user wait for its next turn."""
        entries = self._sent.entries(computation)
        self._sent.remove(computation)
        computation.clock.stop()
        computation.number, computation.yielding = next(self._numbers), False
        computation.turn_from, computation.turns = computation.clock.seconds, computation.turns + 1
        self._queue.put_back(entries)
        self.changed.notify_all()

    def _stop_unwanted(self) -> None:
        """Drop computations that nobody waits for, and cancel those that the worker has."""
        for computation in list(self._computations.values()):
            if computation.waiters <= 0 and self._sent.find(computation.number) is None:
                del self._computations[computation.key]
                self._queue.drop(computation)
        for computation in self._sent:
            if (
                computation.waiters <= 0
                and not computation.cancel_sent
                and self._worker is not None
            ):
                computation.cancel_sent = time.monotonic()
                self._worker.send(Cancel(computation.number))

    def _seconds_until_kill(self) -> float:
        """Seconds until the worker is killed because a cancelled computation does not stop."""
        top = self._sent.top
        if top is None or not top.cancel_sent:
            return math.inf
        left = top.cancel_sent + self._grace_s - time.monotonic()
        if left <= 0 and self._worker is not None:
            _log.warning("the model worker did not stop a cancelled job; restarting it")
            self._worker_ended(self._worker.kill())
            return 0.0
        return max(left, 0.0)

    def _start_worker(self) -> None:
        try:
            self._silent = self._idle = 0
            self._worker = WorkerProcess(self._function, self._wakeup.wake)
        except OSError as error:
            _log.exception("the model worker could not be started")
            self._put_back_all(f"It could not be started ({error}).", was_ready=False)

    def _worker_ended(self, how: str) -> None:
        """The worker has ended: its running job fails, the others return to the queue."""
        was_ready = self._worker is not None and self._worker.ready
        self._worker = None
        _log.error("the model worker stopped (%s)", how)
        why = "" if was_ready else f"It could not start ({how}). The server's log has the reason."
        self._put_back_all(why, was_ready=was_ready)
        if was_ready and not self._closing:
            self._start_worker()
        self.changed.notify_all()

    def _put_back_all(self, why: str, *, was_ready: bool) -> None:
        culprit = self._sent.culprit(was_ready)
        for entries in self._sent.empty():
            computation = entries[0].computation
            computation.clock.stop()
            if computation is culprit:
                continue
            if computation.cancel_sent:
                self._finish(computation, error=CancelledError())
            else:
                computation.progress = None
                computation.returned += 1
                self._queue.put_back(entries)
        if culprit is not None:
            if was_ready:
                self._crashes.add(culprit.key)
            message = f"The model worker stopped while it worked on this. {why}".strip()
            self._finish(culprit, error=WorkerStoppedError(message, "Run it again."))

    def _shut_down(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker = None
        for computation in list(self._computations.values()):
            self._finish(computation, error=CancelledError("The server is shutting down.", ""))
