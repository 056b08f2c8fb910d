"""The worker's side: takes computations one after the other and has the resident model do them."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from analysis.contract.jobs import Priority
from analysis.errors import AnalysisError, CancelledError, WorkerStoppedError
from analysis.scale.board import Board, Taken, Trouble
from analysis.scale.wire import unpack_request
from analysis.worker.messages import Request
from analysis.worker.supervisor import Supervisor, Ticket

_log = logging.getLogger("stratascope.scale")


@dataclass(eq=False, slots=True)
class Aboard:
    """A computation that the model worker is at, or has laid aside for a click.

    Attributes:
        taken: What was taken.
        request: What it asks.
        ticket: Our claim on it; None if the supervisor refused it.
        problem: Why.
    """

    taken: Taken
    request: Request
    ticket: Ticket | None
    problem: AnalysisError | None = None

    @property
    def over(self) -> bool:
        """Whether there is an answer or an error."""
        return self.ticket is None or self.ticket.computation.finished


class Session:
    """Works as long as there is something to do; between two messages of Celery it does nothing.

    One computation runs at a time. While it is a long one, a click is taken as well: the supervisor
    then has the model worker lay the long one aside.

    Args:
        board: To Redis.
        supervisor: Has the model worker.
        worker: This worker's name.
        stopping: Whether to take no more, and return what is not finished soon.
        now: The clock; only its differences count.
    """

    def __init__(
        self,
        board: Board,
        supervisor: Supervisor,
        worker: str,
        stopping: Callable[[], bool] = lambda: False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._board = board
        self._supervisor = supervisor
        self._worker = worker
        self._stopping = stopping
        self._now = now
        self._aboard: list[Aboard] = []
        self._one_at_a_time = threading.Lock()

    def work(self) -> None:
        """Take and compute until nothing waits."""
        if not self._one_at_a_time.acquire(blocking=False):
            return
        try:
            self._drain()
        finally:
            self._one_at_a_time.release()

    def _drain(self) -> None:
        patience = self._board.settings.grace_s
        stop_at = float("inf")
        while True:
            if self._stopping():
                stop_at = min(stop_at, self._now() + patience)
                self._return_some(everything=self._now() >= stop_at)
            else:
                self._take()
            if not self._aboard:
                return
            self._wait()
            for aboard in list(self._aboard):
                self._attend(aboard)

    def _take(self) -> None:
        kinds = ["click", "long"] if not self._aboard else ["click"]
        if any(aboard.taken.priority == "click" for aboard in self._aboard):
            return
        try:
            taken = self._board.take(self._worker, kinds)
        except Trouble as error:
            self._lament(error)
            return
        if taken is not None:
            self._aboard.append(self._begin(taken))

    def _begin(self, taken: Taken) -> Aboard:
        priority = Priority.LONG if taken.priority == "long" else Priority.INTERACTIVE
        try:
            request = unpack_request(taken.request)
        except AnalysisError as error:
            return Aboard(taken, Request("", "", ""), None, error)
        try:
            return Aboard(
                taken, request, self._supervisor.join(taken.key, request, taken.user, priority)
            )
        except AnalysisError as error:
            return Aboard(taken, request, None, error)

    def _wait(self) -> None:
        with self._supervisor.changed:
            self._supervisor.changed.wait_for(
                lambda: any(aboard.over for aboard in self._aboard), self._board.settings.beat_s
            )

    def _attend(self, aboard: Aboard) -> None:
        try:
            if aboard.over:
                self._land(aboard)
            elif self._beat(aboard) != "wanted":
                self._drop(aboard)
        except Trouble as error:
            self._lament(error)
            if aboard.over:
                self._drop(aboard)  # Redis has forgotten us: whoever waits will ask again

    def _beat(self, aboard: Aboard) -> str:
        ticket = aboard.ticket
        assert ticket is not None  # noqa: S101 - it is not over
        with self._supervisor.changed:
            progress = self._supervisor.progress(ticket.computation)
            seconds = ticket.computation.clock.seconds
        said = json.dumps([progress.done, progress.total, progress.label])
        return self._board.beat(aboard.taken, self._worker, said, seconds)

    def _land(self, aboard: Aboard) -> None:
        flight = aboard.ticket.computation if aboard.ticket is not None else None
        error = aboard.problem if flight is None else flight.error
        if flight is not None and flight.answer is not None:
            answer = flight.answer
            if len(answer.data) <= self._board.settings.result_bytes:
                keep = answer.fingerprint == aboard.request.fingerprint
                self._board.land(aboard.taken, self._worker, answer, keep=keep)
            else:
                error = AnalysisError(
                    f"The result has {len(answer.data) >> 20} MiB, more than is sent from a "
                    "worker to the page.",
                    "Ask for less: a shorter prompt, fewer candidates or links.",
                )
        if isinstance(error, CancelledError) and self._stopping():
            self._board.give_back(aboard.taken, self._worker)
        elif error is not None:
            self._board.fail(aboard.taken, self._worker, error)
        self._drop(aboard)

    def _drop(self, aboard: Aboard) -> None:
        self._aboard.remove(aboard)
        if aboard.ticket is not None:
            self._supervisor.leave(aboard.ticket)

    def _return_some(self, *, everything: bool) -> None:
        """Told to stop: long work goes back at once, a click when its grace is over."""
        for aboard in list(self._aboard):
            if not aboard.over and (everything or aboard.taken.priority == "long"):
                with suppress(*Trouble):
                    self._board.give_back(aboard.taken, self._worker)
                self._drop(aboard)

    @staticmethod
    def _lament(error: BaseException) -> None:
        _log.warning("Redis can't be reached (%s)", type(error).__name__)
        time.sleep(0.2)  # what it is at goes on; only word of it waits


def preload(supervisor: Supervisor, request: Request) -> None:
    """Have a model loaded before the first question; what goes wrong is told with that one."""
    with suppress(WorkerStoppedError):
        ticket = supervisor.join("preload", request, "", Priority.LONG)
        with supervisor.changed:
            supervisor.changed.wait_for(lambda: ticket.computation.finished)
