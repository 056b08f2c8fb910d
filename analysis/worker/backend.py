"""Who computes what is not in the memo: a model worker of this process, or workers elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from analysis.contract.jobs import Job, Progress
from analysis.errors import AnalysisError, DeadlineError, WorkerStoppedError
from analysis.worker.messages import Answer, Request
from analysis.worker.queue import Flight
from analysis.worker.supervisor import Keeper

if TYPE_CHECKING:
    pass


def ask(keeper: Keeper, key: str, request: Request, job: Job, deadline_s: float) -> Answer:
    """Have ``request`` computed, alone or together with others who asked the same.

    Args:
        keeper: Who has it done.
        key: What makes another request the same.
        request: What is asked.
        job: Who asks; hears of progress, in this thread.
        deadline_s: Seconds of computing (not of waiting in the queue) that are allowed.

    Raises:
        CancelledError: If the job is cancelled, or the server shuts down.
        DeadlineError: If it takes longer than allowed.
        WorkerStoppedError: If the worker dies at it.
        BusyError: If the queue is full.
        AnalysisError: Whatever the computation itself raises.
    """
    job.check()
    ticket = keeper.join(key, request, job.user, job.priority)
    try:
        with job.waking(keeper.wake):
            _wait(keeper, ticket.flight, job, deadline_s)
    finally:
        keeper.leave(ticket)
    return _outcome(ticket.flight)


def _wait(keeper: Keeper, flight: Flight, job: Job, deadline_s: float) -> None:
    seen: tuple[Progress | None, bool] = (None, False)

    def state() -> tuple[Progress | None, bool]:
        """Where the computation stands: its progress, and whether its clock runs."""
        return keeper.progress(flight), flight.clock.running

    def news() -> bool:
        """Whether there is anything to tell, or to stop for."""
        return flight.finished or job.cancelled() or state() != seen

    while True:
        with keeper.changed:
            left = deadline_s - flight.clock.seconds
            keeper.changed.wait_for(news, max(left, 0.0) if flight.clock.running else None)
            finished, seen = flight.finished, state()
            late = flight.clock.seconds >= deadline_s
        if finished:
            return
        job.check()
        if late:
            raise DeadlineError(
                f"This took longer than the {deadline_s:g} seconds that the server allows.",
                "Try a shorter prompt or fewer new tokens, or raise STRATASCOPE_DEADLINE_S.",
            )
        if seen[0] is not None:
            job.report(seen[0])


def _outcome(flight: Flight) -> Answer:
    if flight.error is not None:
        error = flight.error
        raise type(error)(error.message, error.hint)  # one exception for each who waited
    if flight.answer is None:
        raise WorkerStoppedError("The computation ended without an answer.", "Run it again.")
    return flight.answer


Keep = Callable[[str, Request, Answer], None]


class Backend(Protocol):
    """What the service asks of either."""

    def start(self) -> None:
        """Be ready before the first request."""

    def close(self) -> None:
        """Stop; whoever still waits gets CancelledError."""

    def ask(self, key: str, request: Request, job: Job, deadline_s: float) -> Answer:
        """Have a request computed; see ``waiting.ask`` for what it raises."""
        ...

    def find(self, key: str) -> bytes | None:
        """An answer that is kept beside this process's own memo, or None."""
        ...

    @property
    def queued(self) -> int:
        """How many computations wait."""
        ...

    @property
    def pid(self) -> int | None:
        """The model worker's process; None while there is none, or it is elsewhere."""
        ...

    @property
    def workers(self) -> int:
        """How many workers there are."""
        ...


class Local:
    """The resident model worker of this process, behind its keeper."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self.start = keeper.start
        self.close = keeper.close

    def ask(self, key: str, request: Request, job: Job, deadline_s: float) -> Answer:
        """As ``waiting.ask`` has it."""
        return ask(self._keeper, key, request, job, deadline_s)

    def find(self, key: str) -> bytes | None:
        """Nothing: the memo of this process is all there is."""
        return None

    @property
    def queued(self) -> int:
        """How many computations wait."""
        return self._keeper.queued

    @property
    def pid(self) -> int | None:
        """The worker's process id; None while there is none."""
        return self._keeper.pid

    @property
    def workers(self) -> int:
        """One, once it has started."""
        return int(self.pid is not None)


#: (kind of request, "ok" or the error's type, seconds, whose request), in the thread that asked.
Told = Callable[[str, str, float, str], None]


class Observed:
    """What ``Backend`` does, watched.

    Args:
        inner: Who computes.

    Attributes:
        told: Who hears of it.
    """

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self._loaded: tuple[int | None, tuple[str, ...]] = (None, ())
        self.told: Told = lambda *_: None
        self.start, self.close, self.find = inner.start, inner.close, inner.find

    def ask(self, key: str, request: Request, job: Job, deadline_s: float) -> Answer:
        """As ``Backend`` has it."""
        began, outcome = time.monotonic(), "defect"
        try:
            answer = self._inner.ask(key, request, job, deadline_s)
            outcome = "ok"
            self._loaded = (self.pid, answer.resident)
        except AnalysisError as error:
            outcome = type(error).__name__
            raise
        finally:
            self.told(request.kind, outcome, time.monotonic() - began, job.user)
        return answer

    @property
    def queued(self) -> int:
        """How many computations wait."""
        return self._inner.queued

    @property
    def pid(self) -> int | None:
        """The worker's process; None while there is none, or it is elsewhere."""
        return self._inner.pid

    @property
    def workers(self) -> int:
        """How many workers there are."""
        return self._inner.workers

    @property
    def resident(self) -> tuple[str, ...]:
        """Models that the worker of this process has loaded; of workers elsewhere nothing."""
        pid, names = self._loaded
        return names if pid is not None and pid == self.pid else ()

    def ready(self, model: str) -> bool:
        """Whether a question about ``model`` would be worked on at once.

        Workers elsewhere load their model before they take anything.
        """
        return model in self.resident if self.pid is not None else self.workers > 0
