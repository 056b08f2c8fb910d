"""Background jobs: how a drawing starts one, its progress, how it ended, and what a restart does.

Dash drops the answer of a callback that is called again before it answers (ADR 32). So a job passes
its result on by ``set_props``, and what is drawn never depends on an answer that may be dropped.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from dash import Dash, Input, Output, State, ctx, set_props
from dash import _callback_signing as signing
from dash.development.base_component import Component
from dash.exceptions import PreventUpdate
from flask import Response, after_this_request, g, request

from analysis.contract.jobs import Job, Priority, Progress
from analysis.errors import CancelledError
from dash_app.errors import Problem, explain
from dash_app.jobs.manager import JobManager, current_background
from dash_app.page.panel import button
from dash_app.page.thin_layout import html
from dash_app.security.responses import Refusal
from dash_app.state.context import (
    PARTS,
    Context,
    Drawing,
    JobStart,
    NewJob,
    PageId,
    join,
    read_run,
)
from dash_app.state.drawings import job_key
from dash_app.state.selection import RunRef, Selection

#: Seconds of computing that a long job may take.
PATIENCE_S = 1800.0


def current_job(
    on_progress: Callable[[Progress], None] | None = None,
) -> Job:
    """A request to the service that is cancelled together with the current background callback.

    In a plain callback it is an ordinary request of the page.
    """
    running = current_background.get()
    job = Job(on_progress=on_progress)
    if running is not None:
        running.requests.append(job)
        if running.state == "cancelled":
            job.cancel()
    return job


def patiently(job: Job | None) -> Job | None:
    """The same request as long work: every click goes first, and ``PATIENCE_S`` is the limit."""
    if job is not None:
        job.priority, job.deadline_s = Priority.LONG, PATIENCE_S
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

        job = current_job(show)
        if patient:
            patiently(job)
        return job

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
    """Do a job's work: ``{"done": ...}``, ``{"problem": ...}``, or None if it was cancelled."""
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


def start_button(text: str, name: str, color: str = "secondary") -> Component:
    """A button that starts a job.

    It is disabled until a press is heard: a press before the page has its selection, or the run
    that the job needs, would be lost. Then a drawing enables it, or ``dash_app/state/gesture.py``.
    """
    return button(text, name, color=color, disabled=True)


def stop_button(name: str) -> Component:
    """A button that stops a job; disabled until the page knows the job."""
    return button("Stop", name, disabled=True)


#: A job's work: it makes its requests and returns how it ended (``run_safely``).
Work = Callable[[NewJob], Any]


@dataclass(frozen=True, slots=True)
class JobParts:
    """The components of a background job in the page, by id.

    Attributes:
        last: A store that the job's callback sets when it ends: Dash requires an output.
        bar: The progress bar.
        stop: The button that cancels the job; empty if there is none.
    """

    last: str
    bar: str
    stop: str = ""


def hand_over(store: str, result: Any, **mark: Any) -> None:
    """Pass a job's result, whole or in part, to the page; None if it was cancelled or not needed.

    It is set, not returned: Dash would delay the drawing until the job ends.
    """
    if result is None:
        raise PreventUpdate
    set_props(store, {"data": {**result, **mark}})


def part_of(drawing: Drawing, run: RunRef | None, selection: Selection) -> Callable[[Any], None]:
    """A function with which a job passes on a part of a drawing's result."""
    return partial(hand_over, drawing.ready, of=job_key(drawing, run, selection))


def register_job(
    app: Dash,
    context: Context,
    drawing: Drawing,
    parts: JobParts,
    prepare: Callable[..., Work | None],
    presses: Mapping[str, Input | State] | None = None,
    *,
    patient: bool = False,
    running: Sequence[tuple[Output, Any, Any]] = (),
) -> None:
    """Register the job of a drawing: what it lacks starts the job, or a button does.

    Args:
        app: The app.
        context: Has the manager and the maker of requests.
        drawing: The drawing, which gets the job's result.
        parts: The job's components.
        prepare: From the run (None before the first, for a drawing without run), the selection and
            the values of ``presses`` to the job's work; None if there is nothing to do.
        presses: Buttons that start the job, and what it reads from the page's controls, by the
            name of the argument.
        patient: For long work (``stages``).
        running: Further outputs: (output, value while the job runs, value after it).
    """
    inputs: dict[str, Any] = {
        "run": State(PageId.RUN, "data"),
        "stored": [State(part, "data") for part in PARTS],
        **(presses or {}),
    }
    if drawing.job is JobStart.AUTOMATIC:
        inputs["wanted"] = Input(drawing.wanted, "data")

    def of_page(run: Any, stored: Any, wanted: Any = None, **pressed: Any) -> Work | None:
        ref, selection = read_run(run), join(*stored)
        missing = ref is None and not drawing.without_run
        if missing or (wanted is None and ctx.triggered_id == drawing.wanted):
            return None
        task = prepare(ref, selection, **pressed)
        return task and partial(_marked, task, job_key(drawing, ref, selection))

    register_work(
        app, context, drawing.ready, parts, inputs, of_page, patient=patient, running=running,
        needs_run=not drawing.without_run,
    )  # fmt: skip


def _marked(task: Work, key: str, job: NewJob) -> Any:
    """A job's result, with the key of what was computed."""
    result = task(job)
    return None if result is None else {**result, "of": key}


def register_work(
    app: Dash,
    context: Context,
    ready: str,
    parts: JobParts,
    inputs: Mapping[str, Any],
    prepare: Callable[..., Work | None],
    *,
    patient: bool = False,
    running: Sequence[tuple[Output, Any, Any]] = (),
    needs_run: bool = False,
) -> None:
    """Register a background job with its progress, its cancel, and the store of its result.

    Args:
        app: The app.
        context: Has the manager and the maker of requests.
        ready: The store that gets the result.
        parts: The job's components.
        inputs: The callback's inputs and states, by name.
        prepare: From their values to the job's work; None if there is nothing to do.
        patient: For long work (``stages``).
        running: Further outputs: (output, value while the job runs, value after it).
        needs_run: Whether a press is lost before the first run.
    """
    for one in inputs.values():
        if isinstance(one, Input) and one.component_property == "n_clicks":
            context.starts[str(one.component_id)] = needs_run

    @app.callback(
        Output(parts.last, "data"), inputs=dict(inputs), **job_options(context, parts, running)
    )
    def work(set_progress: Any, **values: Any) -> bool:
        task = prepare(**values)
        if task is None:
            raise PreventUpdate
        show = announce(set_progress) if parts.stop else set_progress
        hand_over(ready, task(context.jobs(show, patient=patient)))
        return True


def job_options(
    context: Context, parts: JobParts, running: Sequence[tuple[Output, Any, Any]] = ()
) -> dict[str, Any]:
    """Options of ``app.callback`` for a background job, beside its inputs and outputs."""
    options: dict[str, Any] = {
        "background": True,
        "manager": context.manager,
        "interval": context.settings.poll_ms,
        "progress": [Output(fill_id(parts.bar), "style"), Output(label_id(parts.bar), "children")],
        "progress_default": [{"width": "0%"}, ""],
        "prevent_initial_call": True,
    }
    further = list(running)
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
    otherwise leave the other without a bar and a button. Returns the function that shows progress.
    """

    def show(value: Any) -> None:
        set_progress([*value, BUSY, False])

    show([{"width": "0%"}, ""])
    return show


#: Seconds that a poll waits for a result, and how often it looks.
HOLD_S, LOOK_S = 0.2, 0.005


def continue_jobs(app: Dash, manager: JobManager, held: int = 0) -> None:
    """Let pages start the jobs again that a server lost when it ended.

    A page keeps the request of each job that it waits for (``assets/js/net.js``). If a poll reaches
    a server that does not know the job, the response has status 410, and the page sends the kept
    request with ``again=`` and the job's handle. So the job goes on under its old name. While a
    server stops, it starts no job: status 503, and the page tries again.

    Args:
        app: The app, whose gate checks each request before this.
        manager: Runs the jobs.
        held: Polls that may wait for a result at once; the others are answered at once.
    """
    waiting = threading.BoundedSemaphore(held)

    def check() -> Response | None:
        if not g.get("background"):
            return None
        if "cacheKey" in request.args:
            repeatable = "repeatable" in request.args
            return _poll(manager, _key(app, "cacheKey"), waiting) if repeatable else None
        if "again" in request.args:
            g.again = _key(app, "again")
            if not manager.is_lost(g.again):
                return Response("{}", mimetype="application/json")  # it runs: poll on
        if manager.draining:
            raise Refusal(503, "The server is restarting.", "Wait: the page tries again.")
        after_this_request(_mark)
        return None

    app.server.before_request(check)


def _poll(manager: JobManager, key: str, waiting: threading.Semaphore) -> Response | None:
    """Answer a poll of a lost job; a poll that asks to wait waits for a result that comes soon."""
    if manager.is_lost(key):
        return Response(status=410)
    if "wait" in request.args and waiting.acquire(blocking=False):
        late = time.monotonic() + HOLD_S
        while not manager.has_result(key) and time.monotonic() < late:
            time.sleep(LOOK_S)
        waiting.release()
    return None


def _mark(response: Response) -> Response:
    """Let the page know that this request started a job."""
    response.headers["X-Background-Job"] = "started"
    return response


def _key(app: Any, name: str) -> str:
    """The job that a handle names.

    Raises:
        Refusal: If this server did not sign it for this page.
    """
    secret: bytes = app._get_signing_secret()
    end_id = signing.unsign(secret, signing.END_SCOPE, request.args.get("endId"))
    found = signing.unsign(secret, signing.cache_scope(end_id), request.args[name])
    if not found:
        raise Refusal(403, "This server does not know this page.", "Reload the page.")
    return found
