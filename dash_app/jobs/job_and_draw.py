"""Background jobs: the callbacks that every view needs, progress in the page, and how a job ended.

Dash drops the answer of a callback that is called again before it answers (ADR 32). So a job passes
its result on by ``set_props``, and what is drawn never depends on an answer that may be dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dash import Dash, Input, Output, State, ctx, html, no_update, set_props
from dash.development.base_component import Component
from dash.exceptions import PreventUpdate

from analysis.contract.jobs import Job, Priority, Progress
from analysis.errors import CancelledError
from dash_app.errors import Problem, explain
from dash_app.jobs.manager import current_background
from dash_app.page.panel import button
from dash_app.state.context import Context, NewJob, PageId, join, read_run

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
        running.requests.append(job)
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


BUSY, IDLE = "job is-busy", "job is-idle"


def fill_id(bar: str) -> str:
    """Id of the filled part of a progress bar."""
    return f"{bar}-fill"


def label_id(bar: str) -> str:
    """Id of the text beside a progress bar."""
    return f"{bar}-label"


def progress_bar(name: str, *buttons: Component) -> Component:
    """A progress bar, its text, and buttons; visible while the job runs."""
    fill = html.Div(id=fill_id(name), className="progress-bar")
    label = html.Span(id=label_id(name), className="job-label")
    return html.Div(
        [html.Div(fill, className="progress"), label, *buttons],
        id=name,
        className=IDLE,
        role="status",
    )


def small_button(text: str, name: str) -> Component:
    """A small button that starts a job."""
    return button(text, name)


def stop_button(name: str) -> Component:
    """A button that stops a job; disabled until the page knows the job."""
    return button("Stop", name, disabled=True)


#: A job's work: it makes its requests and returns how it ended (``run_safely``).
Work = Callable[[NewJob], Any]


def draw_run(
    app: Dash,
    outputs: Sequence[Output],
    draw: Callable[..., Any],
    *,
    parts: Sequence[PageId] = (),
    state: Sequence[PageId] = (),
    controls: Mapping[str, str] | None = None,
    theme: bool = False,
    ready: str = "",
) -> None:
    """Draw whenever the run changes, or what is drawn of it; never before the first run.

    Args:
        app: The app.
        outputs: What ``draw`` returns a value for.
        draw: Called with the run and the selection, and by name with the values of ``controls``,
            with ``theme`` the page's colour scheme, and with ``ready`` the result of a job that
            ended just now, else None.
        parts: Parts of the selection that it draws.
        state: Parts of the selection that it reads, but that do not cause a drawing.
        controls: Controls of the view whose value it draws, by name.
        theme: Whether it depends on the colour scheme.
        ready: The store with a job's result.
    """
    stores = [Input(part, "data") for part in parts] + [State(part, "data") for part in state]
    values = {name: Input(control, "value") for name, control in (controls or {}).items()}
    inputs: dict[str, Any] = {"data": Input(PageId.RUN, "data"), "parts": stores, **values}
    if theme:
        inputs["theme"] = Input(PageId.SCHEME, "data")
    if ready:
        inputs["ready"] = Input(ready, "data")

    @app.callback(*outputs, inputs=inputs, prevent_initial_call=True)
    def show(data: Any, parts: Any, **further: Any) -> Any:
        run = read_run(data)
        if run is None:
            return no_update
        if ready and ctx.triggered_id != ready:
            further["ready"] = None
        return draw(run, join(*parts), **further)


@dataclass(frozen=True, slots=True)
class JobParts:
    """The components of a background job in the page, by id.

    Attributes:
        last: A store that the job's callback sets when it ends: Dash requires an output.
        bar: The progress bar.
        ready: The store for the result; the drawing callback listens to it.
        stop: The button that cancels the job; empty if there is none.
        label: Where the progress is written; empty: beside the bar.
    """

    last: str
    bar: str
    ready: str = ""
    stop: str = ""
    label: str = ""

    def hand_over(self, result: Any) -> None:
        """Pass a result, whole or in part, to the drawing callback.

        It is set, not returned: Dash would delay the drawing until the job ends.

        Raises:
            PreventUpdate: If there is no result, because the job was cancelled or not needed.
        """
        if result is None:
            raise PreventUpdate
        set_props(self.ready, {"data": result})


def register_job(
    app: Dash,
    context: Context,
    parts: JobParts,
    inputs: Mapping[str, Any],
    prepare: Callable[..., Work | None],
    *,
    patient: bool = False,
    running: Sequence[tuple[Output, Any, Any]] = (),
) -> None:
    """Register a background job with its progress, its cancel, and the store of its result.

    Args:
        app: The app.
        context: Has the manager and the maker of requests.
        parts: The job's components.
        inputs: The callback's inputs and states, by name.
        prepare: From their values to the job's work; None if there is nothing to do.
        patient: For long work (``stages``).
        running: Further outputs: (output, value while the job runs, value after it).
    """

    @app.callback(
        Output(parts.last, "data"), inputs=dict(inputs), **job_options(context, parts, running)
    )
    def work(set_progress: Any, **values: Any) -> bool:
        task = prepare(**values)
        if task is None:
            raise PreventUpdate
        show = announce(set_progress) if parts.stop else set_progress
        parts.hand_over(task(context.jobs(show, patient=patient)))
        return True


def job_options(
    context: Context, parts: JobParts, running: Sequence[tuple[Output, Any, Any]] = ()
) -> dict[str, Any]:
    """Options of ``app.callback`` for a background job, beside its inputs and outputs."""
    label = parts.label or label_id(parts.bar)
    options: dict[str, Any] = {
        "background": True,
        "manager": context.manager,
        "interval": context.settings.poll_ms,
        "progress": [Output(fill_id(parts.bar), "style"), Output(label, "children")],
        "prevent_initial_call": True,
    }
    further = list(running)
    if not parts.label:
        options["progress_default"] = [{"width": "0%"}, ""]
    if parts.stop:
        options["progress"] += [Output(parts.bar, "className"), Output(parts.stop, "disabled")]
        options["progress_default"] += [IDLE, True]
        options["cancel"] = [Input(parts.stop, "n_clicks")]
        further.append((Output(parts.bar, "className"), BUSY, IDLE))
    if further:
        options["running"] = further
    return options


def announce(set_progress: Callable[[Any], None]) -> Callable[[Any], None]:
    """Tell the page that a job has started, so that it can be stopped.

    Dash cancels only jobs that the browser knows. A job whose start the server has not answered yet
    would run on, so the stop button stays disabled until the first progress arrives. Every progress
    enables it again: when two jobs are started before the first is known, the end of one would
    otherwise leave the other without a bar and a button.

    Returns:
        The function that shows progress.
    """

    def show(value: Any) -> None:
        set_progress([*value, BUSY, False])

    show([{"width": "0%"}, ""])
    return show
