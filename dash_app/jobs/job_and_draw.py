"""The callbacks that every view needs: draw the run, and compute in the background.

Dash drops the answer of a callback that is called again before it answers (ADR 32). So a job passes
its result on by ``set_props``, and what is drawn never depends on an answer that may be dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dash import Dash, Input, Output, State, ctx, no_update, set_props
from dash.exceptions import PreventUpdate

from dash_app.jobs.progress import BUSY, IDLE, fill_id, label_id
from dash_app.state.context import Context, NewJob, PageId
from dash_app.state.stores import join, read_run

#: A job's work: it makes its requests and returns how it ended (``progress.run_safely``).
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
        patient: For long work (``progress.stages``).
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
