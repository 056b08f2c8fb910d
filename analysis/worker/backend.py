"""Backends compute what is not in the memo: a local worker here, remote ones in ``scale``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from analysis.contract.jobs import Job, Progress
from analysis.errors import AnalysisError, DeadlineError, WorkerStoppedError
from analysis.worker.messages import Answer, Request
from analysis.worker.queue import Computation
from analysis.worker.supervisor import Supervisor


def compute(
    supervisor: Supervisor, key: str, request: Request, job: Job, deadline_s: float
) -> Answer:
    """Have a request computed, shared with equal requests of other users.

    Args:
        supervisor: Of the model worker.
        key: The memo key.
        request: What to compute.
        job: The user's job; its progress is reported in this thread.
        deadline_s: Allowed seconds of computing; waiting in the queue does not count.

    Raises:
        CancelledError: If the job is cancelled, or the server shuts down.
        DeadlineError: If it takes longer than allowed.
        WorkerStoppedError: If the worker ends while it computes this.
        BusyError: If the queue is full.
        AnalysisError: Whatever the computation raises.
    """
    job.check()
    ticket = supervisor.join(key, request, job.user, job.priority)
    try:
        with job.waking(supervisor.wake):
            _wait(supervisor, ticket.computation, job, deadline_s)
    finally:
        supervisor.leave(ticket)
    return _outcome(ticket.computation)


def _wait(supervisor: Supervisor, computation: Computation, job: Job, deadline_s: float) -> None:
    seen: tuple[Progress | None, bool] = (None, False)

    def state() -> tuple[Progress | None, bool]:
        """Its progress, and whether its clock runs."""
        return supervisor.progress(computation), computation.clock.running

    def news() -> bool:
        """Whether there is something to report, or a reason to stop."""
        return computation.finished or job.cancelled() or state() != seen

    while True:
        with supervisor.changed:
            left = deadline_s - computation.clock.seconds
            supervisor.changed.wait_for(news, max(left, 0.0) if computation.clock.running else None)
            finished, seen = computation.finished, state()
            late = computation.clock.seconds >= deadline_s
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


def _outcome(computation: Computation) -> Answer:
    if computation.error is not None:
        error = computation.error
        raise type(error)(error.message, error.hint)  # a new exception for each waiting thread
    if computation.answer is None:
        raise WorkerStoppedError("The computation ended without an answer.", "Run it again.")
    return computation.answer


Keep = Callable[[str, Request, Answer], None]

#: Gives the stored answer to a memo key, from memory, or None.
Recent = Callable[[str], bytes | None]


class Backend(Protocol):
    """What the service needs of a backend."""

    def start(self) -> None:
        """Start before the first request."""

    def close(self) -> None:
        """Stop. Waiting calls raise CancelledError."""

    def ask(self, key: str, request: Request, job: Job, deadline_s: float) -> Answer:
        """Have a request computed. Raises what ``compute`` of this module raises."""
        ...

    def find(self, key: str) -> bytes | None:
        """An answer kept outside this process's memo, or None."""
        ...

    @property
    def queued(self) -> int:
        """Number of waiting computations."""
        ...

    @property
    def pid(self) -> int | None:
        """Process id of the local model worker; None if there is none."""
        ...

    @property
    def workers(self) -> int:
        """Number of workers."""
        ...


class Local:
    """The resident model worker of this process."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self.start = supervisor.start
        self.close = supervisor.close

    def ask(self, key: str, request: Request, job: Job, deadline_s: float) -> Answer:
        """See ``compute``."""
        return compute(self._supervisor, key, request, job, deadline_s)

    def find(self, key: str) -> bytes | None:
        """None: this process's memo is the only store."""
        return None

    @property
    def queued(self) -> int:
        """Number of waiting computations."""
        return self._supervisor.queued

    @property
    def pid(self) -> int | None:
        """The worker's process id; None if there is none."""
        return self._supervisor.pid

    @property
    def workers(self) -> int:
        """1 once the worker has started, else 0."""
        return int(self.pid is not None)


#: (technique, "ok" or the error's type, seconds, user); called in the requesting thread.
OnEnd = Callable[[str, str, float, str], None]


class Observed:
    """A backend that reports every computation that ends, and knows the loaded models.

    Args:
        inner: The backend that computes.

    Attributes:
        on_end: Called when a computation ends.
    """

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self._loaded: tuple[int | None, tuple[str, ...]] = (None, ())
        self.on_end: OnEnd = lambda *_: None
        self.start, self.close, self.find = inner.start, inner.close, inner.find

    def ask(self, key: str, request: Request, job: Job, deadline_s: float) -> Answer:
        """See ``Backend``."""
        began, outcome = time.monotonic(), "defect"
        try:
            answer = self._inner.ask(key, request, job, deadline_s)
            outcome = "ok"
            if answer.resident:  # an answer from memory says nothing about the worker
                self._loaded = (self.pid, answer.resident)
        except AnalysisError as error:
            outcome = type(error).__name__
            raise
        finally:
            self.on_end(request.kind, outcome, time.monotonic() - began, job.user)
        return answer

    @property
    def queued(self) -> int:
        """Number of waiting computations."""
        return self._inner.queued

    @property
    def pid(self) -> int | None:
        """Process id of the local model worker; None if there is none."""
        return self._inner.pid

    @property
    def workers(self) -> int:
        """Number of workers."""
        return self._inner.workers

    @property
    def resident(self) -> tuple[str, ...]:
        """Names of the models that the local worker has loaded; empty for remote workers."""
        pid, names = self._loaded
        return names if pid is not None and pid == self.pid else ()

    def ready(self, model: str) -> bool:
        """Whether a request to ``model`` would start at once.

        Remote workers load their model before they accept requests.
        """
        return model in self.resident if self.pid is not None else self.workers > 0
