"""The edges between components that carry the answer of a pair, and how faithful graphs are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from functools import partial
from typing import Any

import dash_bootstrap_components as dbc
from dash import ClientsideFunction, Dash, Input, Output, dcc

from analysis.errors import AnalysisError
from analysis.experiments.component_specs import (
    EDGE_ABLATIONS,
    EDGE_POSITIONS,
    EDGE_SCORES,
    ComponentGraph,
    ComponentGraphSpec,
)
from dash_app.jobs.job_and_draw import (
    JobParts,
    Work,
    part_of,
    progress_bar,
    register_job,
    run_safely,
    stop_button,
    stored_problem,
)
from dash_app.page.panel import (
    GRAPH_CONFIG,
    Option,
    aria,
    blank_figure,
    control,
    error_figure,
    options_of,
    segmented,
    switch,
)
from dash_app.page.panel import problem_figure as problem_picture
from dash_app.page.panes import Pane
from dash_app.page.thin_layout import html
from dash_app.state.context import (
    Context,
    Drawing,
    JobStart,
    NewJob,
    PageId,
    Service,
    Shown,
    View,
)
from dash_app.state.exports import Export
from dash_app.state.selection import RunRef, Selection
from dash_app.views.components.figure import components_caption, components_figure

PANE = "components"
EMPTY = "Choose a pair of prompts, or type your own."
#: Edges of the largest graph that the slider reaches.
MOST = 300
#: How many of the strongest edges can be measured.
MEASURED = (0, 10, 30, 100)
HELP = (
    "A component is the embedding, a head, an MLP or the answer. Each reads the sum of what those"
    " before it wrote: a head by its query, key and value, each on its own. An edge is one of these"
    " readings, at one position. Cutting it puts what the sender writes after the corrupted prompt,"
    " or its mean, or nothing, in the place of what it writes after the clean one.",
    f"Effects are estimated with one backward pass ({EDGE_SCORES['gradient'].source}) or five. The"
    " strongest edges can be cut one at a time instead: a saturated softmax hides its inputs from"
    " an estimate."
    " The picture has the strongest edges on paths from the embedding to the answer. Blue"
    " edges support the answer, orange ones oppose it. Edges into keys and values are drawn to each"
    " later position of the head. Faint edges show their values on hover.",
    "Right: the share of the logit difference that remains in a run with every edge outside the"
    " graph cut (faithfulness, as in the MIB benchmark; Mueller et al., 2025), in one with the"
    " graph's own edges cut, and for random graphs of the same size.",
)
#: The help of a number of measured edges, by whether there are any.
_COSTS = (
    "All effects are estimated.",
    "The strongest edges are cut one at a time (path patching; Goldowsky-Dill et al., 2023).",
)


class ComponentsId(StrEnum):
    """Ids of this view's components."""

    OPTIONS = "components-options"
    SIZE = "components-size"
    GRAPH = "components-graph"
    CAPTION = "components-caption"
    LAST = "components-last"
    PROGRESS = "components-progress"
    STOP = "components-stop"


def layout(_context: Context) -> dict[str, Any]:
    """The slider, and the picture with its curve."""
    slider = dbc.Input(
        id=ComponentsId.SIZE, type="range", min=1, max=MOST, step=1, value=30,
        class_name="form-range border-0 p-0",
    )  # fmt: skip
    picture = dcc.Graph(
        id=ComponentsId.GRAPH, figure=blank_figure(), config=GRAPH_CONFIG, responsive=True,
        style={"height": "22rem"},
    )  # fmt: skip
    label = "Graph of components, and the share of the answer that graphs of each size keep"
    body = [
        dcc.Store(id=ComponentsId.LAST),
        html.Div(id=ComponentsId.OPTIONS, className="controls"),
        html.Label(
            [html.Span(f"Edges, 1 to {MOST}", className="control-label text-nowrap"), slider],
            className="d-flex align-items-center gap-2",
        ),
        progress_bar(ComponentsId.PROGRESS, stop_button(ComponentsId.STOP)),
        html.Div(picture, className="figure", role="img", tabIndex="0", **aria(label=label)),
    ]
    pane = Pane(
        PANE, "Components", "Which edges between components carry the answer", html.Div(body), HELP,
        caption=EMPTY, caption_id=ComponentsId.CAPTION,
    )  # fmt: skip
    return {PANE: pane}


def spec_of(selection: Selection) -> ComponentGraphSpec | None:
    """The graph of the selection's pair, with its curve; None if there is no pair.

    Raises:
        SpecError: If a prompt is empty, or answer and foil are the same.
    """
    if not selection.clean and not selection.corrupted:
        return None
    return ComponentGraphSpec(
        selection.model, selection.clean, selection.corrupted, selection.answer, selection.against,
        selection.cut_by, selection.edge_score, selection.edge_places, MOST, selection.measured,
    )  # fmt: skip


def specs(_service: Service, _run: RunRef | None, selection: Selection) -> list[ComponentGraphSpec]:
    """The request of the graph; none if there is no pair."""
    spec = spec_of(selection)
    return [] if spec is None else [spec]


def compute(
    service: Service,
    selection: Selection,
    job: NewJob,
    *,
    hand_over: Callable[[dict[str, Any]], None],
) -> dict[str, Any] | None:
    """Score the edges, then run graphs; ``hand_over`` passes the edges on before the curve."""

    def work() -> int:
        spec = spec_of(selection)
        if spec is not None:
            service.ask(spec.model, replace(spec, curve=False), job(0.0, 0.25))
            hand_over({"part": 0})
            service.ask(spec.model, spec, job(0.25, 1.0))
        return 1

    return run_safely(work)


def draw(
    service: Service,
    _run: RunRef | None,
    selection: Selection,
    theme: Any,
    ready: dict[str, Any] | None,
) -> Shown:
    """The picture and its caption; nothing is computed before the pane is opened."""
    try:
        spec = spec_of(selection) if PANE in selection.panes else None
        if spec is None:
            return Shown((blank_figure(20), EMPTY))
        whole: ComponentGraph | None = service.peek(spec.model, spec)
        found = whole or service.peek(spec.model, replace(spec, curve=False))
        problem = stored_problem(ready)
        if found is None and problem:
            return Shown((problem_picture(problem, 200), ""))
        if found is None:
            return Shown((blank_figure(20), "The edges come first."), complete=False)
        figure = components_figure(found, selection.circuit, theme)
        text = components_caption(found, selection.circuit)
        return Shown((figure, text), complete=whole is not None or problem is not None)
    except AnalysisError as error:
        return Shown((error_figure(error, 200), ""))


def draw_options(_service: Service, _run: RunRef | None, selection: Selection) -> list[Any]:
    """The switches: what a cut edge carries, the score, the positions, and what is measured."""
    counts = [
        Option(str(count), "None" if not count else str(count), _COSTS[bool(count)])
        for count in MEASURED
    ]
    tables = (
        ("cut_by", "Cut edges carry", options_of(EDGE_ABLATIONS), selection.cut_by),
        ("edge_score", "Score", options_of(EDGE_SCORES), selection.edge_score),
        ("edge_places", "Positions", options_of(EDGE_POSITIONS), selection.edge_places),
        ("measured", "Measured edges", counts, str(selection.measured)),
    )
    return [
        control(label, segmented(switch(name, options, chosen, label)))
        for name, label, options, chosen in tables
    ]


DRAWING = Drawing(
    PANE,
    (Output(ComponentsId.GRAPH, "figure"), Output(ComponentsId.CAPTION, "children")),
    draw,
    parts=(PageId.SWEEP, PageId.REQUEST, PageId.ARRANGEMENT),
    theme=True,
    job=JobStart.AUTOMATIC,
    computed=(PageId.SWEEP, PageId.REQUEST),
    without_run=True,
)
OPTIONS = Drawing(
    "components-options",
    (Output(ComponentsId.OPTIONS, "children"),),
    draw_options,
    parts=(PageId.SWEEP,),
    without_run=True,
)
JOB = JobParts(ComponentsId.LAST, ComponentsId.PROGRESS, ComponentsId.STOP)


def register(app: Dash, context: Context) -> None:
    """Compute the graph and its curve; the browser sets the slider."""

    def prepare(run: RunRef | None, selection: Selection, **_presses: Any) -> Work | None:
        pass_on = part_of(DRAWING, run, selection)
        return partial(compute, context.service, selection, hand_over=pass_on)

    register_job(app, context, DRAWING, JOB, prepare, patient=True)
    browser: Any = app.clientside_callback  # Dash has no types for it
    browser(
        ClientsideFunction("stratascope", "reportCircuit"),
        Input(ComponentsId.SIZE, "value"),
        prevent_initial_call=True,
    )
    browser(
        ClientsideFunction("stratascope", "showCircuit"),
        Input(PageId.SWEEP, "data"),
        Input(PageId.QUERY, "data"),
        Input(ComponentsId.CAPTION, "children"),  # the pane is drawn when it is first shown
    )


EXPORT = Export(
    specs,
    DRAWING.name,
    "Open the pane with a pair of prompts, and wait for the curve, then export it again.",
    without_run=True,
)
VIEW = View(PANE, layout, register, drawings=(DRAWING, OPTIONS), exports={PANE: EXPORT})
