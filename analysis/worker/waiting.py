"""Waiting for a computation: progress out, cancel and deadline in, no polling."""

from __future__ import annotations

from analysis.errors import DeadlineError, WorkerStoppedError
from analysis.job import Job
from analysis.worker.flight import Flight, Progress
from analysis.worker.keeper import Keeper
from analysis.worker.messages import Answer, Request


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
