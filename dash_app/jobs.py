"""What callbacks need of jobs: a job for the service, its progress in the page, its errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from analysis.job import Job, Priority, Progress
from dash_app.job_errors import typed
from dash_app.job_manager import JobManager
from dash_app.job_record import current_background

__all__ = ["JobManager", "caption", "current_job", "stages", "typed"]

#: Seconds that a long job may compute.
PATIENCE_S = 1800.0


def current_job(
    on_progress: Callable[[Progress], None] | None = None,
    priority: Priority = Priority.INTERACTIVE,
    deadline_s: float | None = None,
) -> Job:
    """A job for the service that is cancelled with the background callback it is made in.

    In a plain callback it is an ordinary job of the page that asked.
    """
    running = current_background.get()
    job = Job(priority=priority, on_progress=on_progress, deadline_s=deadline_s)
    if running is not None:
        running.jobs.append(job)
        if running.state == "cancelled":
            job.cancel()
    return job


def stages(
    set_progress: Callable[[Any], None], *, patient: bool = False
) -> Callable[[float, float], Job]:
    """Make jobs for the parts of a background callback, showing one progress for all.

    Args:
        set_progress: From Dash. It is given ``[{"width": "42%"}, what is being done]``.
        patient: For long work: it lets every click go first, and may take ``PATIENCE_S``.

    Returns:
        From the part of the whole (two numbers from 0 to 1) to a job.
    """

    def make(start: float, end: float) -> Job:
        def show(progress: Progress) -> None:
            part = min(progress.done / progress.total, 1.0) if progress.total > 0 else 0.0
            percent = 100.0 * (start + (end - start) * part)
            set_progress([{"width": f"{percent:.0f}%"}, caption(progress)])

        if patient:
            return current_job(show, Priority.LONG, PATIENCE_S)
        return current_job(show)

    return make


def caption(progress: Progress) -> str:
    """What is being done, in a few words; the place in the queue while it waits."""
    if progress.queue_position:
        ahead = "request goes" if progress.queue_position == 1 else "requests go"
        return f"Waiting: {progress.queue_position} {ahead} first"
    if progress.total > 1:
        return f"{progress.label} ({progress.done} of {progress.total})"
    return progress.label
