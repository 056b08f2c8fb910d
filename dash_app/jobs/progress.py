"""A background job's requests to the service, its progress in the page, and how it ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dash import html
from dash.development.base_component import Component

from analysis.contract.jobs import Job, Priority, Progress
from analysis.errors import CancelledError
from dash_app.errors import Problem, explain
from dash_app.jobs.manager import current_background

#: Seconds of computing that a long job may take.
PATIENCE_S = 1800.0


def current_job(
    on_progress: Callable[[Progress], None] | None = None,
    priority: Priority = Priority.INTERACTIVE,
    deadline_s: float | None = None,
) -> Job:
    """A request to the service that is cancelled together with the current background callback.

    In a plain callback it is an ordinary request of the page.
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
    """Make requests for the stages of a background callback, with one progress bar for all.

    Args:
        set_progress: Dash's function. It receives ``[{"width": "42%"}, caption]``.
        patient: For long work: every click goes first, and ``PATIENCE_S`` is the limit.

    Returns:
        A function from the stage's part of the whole (start and end, 0 to 1) to a request.
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
    """What is computed, in a few words; the place in the queue while the request waits."""
    if progress.queue_position:
        plural = "" if progress.queue_position == 1 else "s"
        return f"Waiting for {progress.queue_position} earlier request{plural}"
    if progress.total > 1:
        return f"{progress.label} ({progress.done} of {progress.total})"
    return progress.label


def run_safely(work: Callable[[], Any]) -> dict[str, Any] | None:
    """Do a job's work.

    Returns:
        ``{"done": result}``, or ``{"problem": ...}`` if it failed; None if it was cancelled.
    """
    try:
        return {"done": work()}
    except CancelledError:
        return None
    except Exception as error:  # noqa: BLE001 - shown in place of the result
        return problem_to_store(error)


def problem_to_store(error: BaseException) -> dict[str, Any]:
    """An error as a store of the page holds it."""
    problem = explain(error)
    return {"problem": [problem.message, problem.hint, problem.request]}


def stored_problem(stored: Mapping[str, Any] | None) -> Problem | None:
    """The error in a store; None if there is none."""
    found = (stored or {}).get("problem")
    return Problem(*found) if found else None


BUSY, IDLE = "progress is-busy", "progress is-idle"


def fill_id(bar: str) -> str:
    """Id of the filled part of a progress bar."""
    return f"{bar}-fill"


def label_id(bar: str) -> str:
    """Id of the text beside a progress bar."""
    return f"{bar}-label"


def progress_bar(name: str, *buttons: Component) -> Component:
    """A progress bar, its text, and buttons; visible while the job runs."""
    fill = html.Div(id=fill_id(name), className="progress-fill")
    label = html.Span(id=label_id(name), className="progress-label")
    return html.Div(
        [html.Div(fill, className="progress-track"), label, *buttons],
        id=name,
        className=IDLE,
        role="status",
    )


def small_button(text: str, name: str) -> Component:
    """A small button that starts a job."""
    return html.Button(text, id=name, type="button", className="button button--small")


def stop_button(name: str) -> Component:
    """A button that stops a job; disabled until the page knows the job."""
    return html.Button(
        "Stop", id=name, type="button", className="button button--small", disabled=True
    )
