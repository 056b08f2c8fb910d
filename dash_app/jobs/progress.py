"""A job in the page: its progress bar, its errors, its outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dash import Input, Output, ctx, html, set_props
from dash.development.base_component import Component
from dash.exceptions import PreventUpdate

from analysis.contract.jobs import Job, Priority, Progress
from analysis.errors import CancelledError
from dash_app.errors import Problem, explain
from dash_app.jobs.manager import current_background
from dash_app.state.context import Context

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


def attempt(work: Callable[[], Any]) -> dict[str, Any] | None:
    """Do a job's work: ``{"done": what it returns}``, or ``failure``; None if it was cancelled."""
    try:
        return {"done": work()}
    except CancelledError:
        return None
    except Exception as error:  # noqa: BLE001 - said where the result would be
        return failure(error)


def failure(error: BaseException) -> dict[str, Any]:
    """What a store keeps of an error: no more than JSON can carry."""
    problem = explain(error)
    return {"trouble": [problem.message, problem.hint, problem.request]}


def trouble_in(stored: Mapping[str, Any] | None) -> Problem | None:
    """What went wrong, if something did."""
    wrong = (stored or {}).get("trouble")
    return Problem(*wrong) if wrong else None


BUSY, IDLE = "progress is-busy", "progress is-idle"


def progress(name: str, *buttons: Component) -> Component:
    """A bar of the id ``name`` and what is being done, seen while the job runs; then buttons."""
    fill = html.Div(id=_fill(name), className="progress-fill")
    label = html.Span(id=_label(name), className="progress-label")
    return html.Div(
        [html.Div(fill, className="progress-track"), label, *buttons],
        id=name,
        className=IDLE,
        role="status",
    )


def small_button(text: str, name: str) -> Component:
    """A button beside a job that starts one."""
    return html.Button(text, id=name, type="button", className="button button--small")


def stop_button(name: str) -> Component:
    """A button that stops a job, once it can (``begun``)."""
    return html.Button(
        "Stop", id=name, type="button", className="button button--small", disabled=True
    )


def job(
    context: Context, name: str, stop: str, running: Sequence[tuple[Output, Any, Any]] = ()
) -> dict[str, Any]:
    """What ``app.callback`` is told, beside inputs and outputs, to do a job in the background.

    Its function starts with ``begun``.

    Args:
        context: Has the manager of such jobs.
        name: Id of the job's ``progress``.
        stop: Id of the button that cancels it; it is off until the page knows the job.
        running: Further (output, while it runs, then).
    """
    return {
        "background": True,
        "manager": context.manager,
        "interval": context.settings.poll_ms,
        "progress": [
            Output(_fill(name), "style"),
            Output(_label(name), "children"),
            Output(name, "className"),
            Output(stop, "disabled"),
        ],
        "progress_default": [{"width": "0%"}, "", IDLE, True],
        "running": [(Output(name, "className"), BUSY, IDLE), *running],
        "cancel": [Input(stop, "n_clicks")],
        "prevent_initial_call": True,
    }


def begun(set_progress: Callable[[Any], None]) -> Callable[[Any], None]:
    """Tell the page that a job has begun, so that it can be stopped; gives what shows its progress.

    Dash cancels the jobs that the browser knows of. One that the server has not answered for yet
    would run on, however often it is told to stop; its first progress says that it is known. Every
    progress says so: where two runs are asked for before the first is known, the end of one would
    else leave the other without a bar and without a button.
    """

    def show(value: Any) -> None:
        set_progress([*value, BUSY, False])

    show([{"width": "0%"}, ""])
    return show


def hand_over(store: str, ready: Any) -> None:
    """Give what a job has found to the picture that listens to ``store``.

    Set, not returned: Dash would hold back the picture until the job is over.

    Raises:
        PreventUpdate: If it has found nothing, as the picture is there already.
    """
    if ready is None:
        raise PreventUpdate
    set_props(store, {"data": ready})


def news_of(store: str, ready: Any) -> Any:
    """What a job has just handed over; None where something else asks for the picture."""
    return ready if ctx.triggered_id == store else None


def _fill(name: str) -> str:
    return f"{name}-fill"


def _label(name: str) -> str:
    return f"{name}-label"
