"""The curves of pinned tokens over the layers: what is shown, and how a click selects."""

from __future__ import annotations

from functools import partial
from typing import Any

from dash import Dash, Input, Output, ctx
from dash.development.base_component import Component

from analysis.tracing.specs import RunResult
from analysis.trajectory.specs import Emergence, EmergenceSpec, Steps, StepsSpec
from dash_app.errors import Problem
from dash_app.jobs.job_and_draw import JobParts, Work, register_job, run_safely, stored_problem
from dash_app.page.panel import blank_figure, error_figure, problem_figure
from dash_app.page.theme import palette
from dash_app.page.token_labels import label
from dash_app.page.window import describe_window, window
from dash_app.state.context import (
    Context,
    Drawing,
    EventHandler,
    JobStart,
    NewJob,
    PageId,
    Service,
    Shown,
    View,
    result_of,
    trace_of,
)
from dash_app.state.exports import Export
from dash_app.state.selection import RunRef, Selection, pinned, resolve
from dash_app.state.update import clicked_point
from dash_app.views.curves.emergence_figure import strip
from dash_app.views.curves.figure import OF_THE_ROW, curves
from dash_app.views.curves.layout import TAU, CurvesId, layout, pin_list, quantities, steps_table

#: Figure, pins, subtitle, table.
Drawn = tuple[Any, Any, str, Any]
#: Figure, caption, whether everything is measured.
Strip = tuple[Any, str, bool]

NOTHING = "No token is pinned. Click a candidate of the chosen cell to see it here."
MEASURING = "not measured yet"
PLAIN, CAUSAL = EmergenceSpec(tau=TAU), EmergenceSpec(tau=TAU, causal=True)


def select_clicked(value: Any, current: Selection, _run: RunRef | None) -> Selection:
    """A click on a curve chooses the row, and the layer that writes it."""
    (row,) = clicked_point(value, "x")
    return current.model_copy(update={"row": row, "layer": max(row - 1, 0)})


def specs(service: Service, run: RunRef, selection: Selection) -> list[StepsSpec]:
    """The request of the curves of the pinned tokens."""
    pos = resolve(selection, run).pos
    pins = pinned(selection, run, result_of(service, run).top_ids[pos, :2].tolist())
    return [StepsSpec(pos, pins, TAU)]


def strip_specs(service: Service, run: RunRef, _selection: Selection) -> list[EmergenceSpec]:
    """The request of the strip that is drawn: with commits if they were measured."""
    return [CAUSAL if service.peek(trace_of(run), CAUSAL) is not None else PLAIN]


def draw(service: Service, run: RunRef, selection: Selection, theme: Any) -> Drawn:
    """The curves, the pins, the subtitle, and the table of tokens."""
    try:
        return _drawn(service, run, selection, theme)
    except Exception as error:  # noqa: BLE001 - shown in place of the figure
        return error_figure(error), [], "", []


def _drawn(service: Service, run: RunRef, selection: Selection, theme: Any) -> Drawn:
    chosen = resolve(selection, run)
    result = result_of(service, run)
    own, line = result.top_ids[chosen.pos, :2].tolist(), _line(result, chosen.pos)
    baseline: Steps | None = None
    if run.edits:
        before = result_of(service, run.baseline).top_ids[chosen.pos, 0]
        own, line = [int(before), *own[:1]], f"{line}; dashed: without the edits"
    pins = pinned(selection, run, own)
    spec = StepsSpec(chosen.pos, pins, TAU)
    steps: Steps = service.ask(trace_of(run), spec)
    if run.edits:
        baseline = service.ask(trace_of(run.baseline), spec)
    if not pins and selection.curve not in OF_THE_ROW:
        return blank_figure(300, NOTHING), [], line, []
    figure = curves(
        steps,
        quantity=selection.curve,
        theme=theme,
        row=chosen.row,
        chosen=selection.pins is not None,
        baseline=baseline,
    )
    colours = palette(theme).categories
    table: Any = steps_table(steps, result, colours) if pins else []
    return figure, pin_list(steps.tokens if pins else (), colours), line, table


def _line(result: RunResult, pos: int) -> str:
    return f"Prediction after {label(result.tokens[pos])} (position {pos})"


def draw_quantities(
    _service: Service, _run: RunRef | None, selection: Selection
) -> list[Component]:
    """The switch of what the curves show."""
    return quantities(selection)


def measure(service: Service, run: RunRef, job: NewJob, *, causal: bool) -> dict[str, Any] | None:
    """Measure emergence at every position; commits only on request.

    Returns:
        None if there was nothing to do, or it was cancelled.
    """
    if not causal and measured(service, run) is not None:
        return None

    def work() -> str:
        spec = CAUSAL if causal else PLAIN
        service.ask(trace_of(run), spec, job(0.0, 1.0))
        return repr(spec)

    return run_safely(work)


def measured(service: Service, run: RunRef) -> Emergence | None:
    """The measurement with commits if there is one, else the one without."""
    trace = trace_of(run)
    found: Emergence | None = service.peek(trace, CAUSAL) or service.peek(trace, PLAIN)
    return found


def draw_strip(
    service: Service, run: RunRef, selection: Selection, theme: Any, ready: dict[str, Any] | None
) -> Shown:
    """The emergence of all positions that are measured."""
    try:
        problem, found = stored_problem(ready), measured(service, run)
        if found is None:
            if problem:
                return Shown((problem_figure(problem, 120), "", False))
            return Shown((blank_figure(40), MEASURING, False), complete=False)
        figure, line, whole = _strip(service, run, selection, theme, found)
        return Shown((figure, _with_problem(problem, line), whole))
    except Exception as error:  # noqa: BLE001 - shown in place of the strip
        return Shown((error_figure(error, 120), "", False))


def _with_problem(problem: Problem | None, line: str) -> str:
    """The caption, after the problem of a job whose earlier result is still shown."""
    if problem is None:
        return line
    return f"{problem.message} {problem.hint} Request {problem.request}. Shown: {line}"


def _strip(
    service: Service, run: RunRef, selection: Selection, theme: Any, found: Emergence
) -> Strip:
    result, chosen = result_of(service, run), resolve(selection, run)
    shown = window(result, False, row=chosen.row, pos=chosen.pos, show=selection.show)
    figure = strip(found, result, shown.positions, pos=chosen.pos, theme=theme)
    positions = describe_window(shown).partition(", ")[2]
    line = f"The layer after which the model's choice emerges; {positions}."
    return figure, line, found.causal_commit is not None


CURVES = Drawing(
    "curves",
    (
        Output(CurvesId.GRAPH, "figure"),
        Output(CurvesId.PINS, "children"),
        Output(CurvesId.SUBTITLE, "children"),
        Output(CurvesId.FACTS, "children"),
    ),
    draw,
    parts=(PageId.CELL, PageId.PINS, PageId.CURVE),
    theme=True,
)
QUANTITY = Drawing(
    "curves-quantity",
    (Output(CurvesId.QUANTITY, "children"),),
    draw_quantities,
    parts=(PageId.CURVE,),
    without_run=True,
)
#: The browser moves the mark of the chosen position, so a move does not draw the strip again.
STRIP = Drawing(
    "emergence",
    (
        Output(CurvesId.STRIP, "figure"),
        Output(CurvesId.STRIP_LINE, "children"),
        Output(CurvesId.COMMIT, "disabled"),
    ),
    draw_strip,
    parts=(PageId.WINDOW,),
    theme=True,
    job=JobStart.AUTOMATIC,
    computed=(),
)
JOB = JobParts(CurvesId.LAST, CurvesId.PROGRESS, CurvesId.STOP)


def register(app: Dash, context: Context) -> None:
    """Measure every position; commits on request."""

    def prepare(run: RunRef, _selection: Selection, **_presses: Any) -> Work:
        causal = ctx.triggered_id == CurvesId.COMMIT
        return partial(measure, context.service, run, causal=causal)

    presses = {"presses": Input(CurvesId.COMMIT, "n_clicks")}
    register_job(app, context, STRIP, JOB, prepare, presses, patient=True)


VIEW = View(
    "curves",
    layout,
    register,
    (EventHandler(CurvesId.GRAPH, "clickData", select_clicked),),
    drawings=(CURVES, QUANTITY, STRIP),
    exports={
        "curves": Export(specs, CURVES.name),
        "emergence": Export(strip_specs, STRIP.name),
    },
)
