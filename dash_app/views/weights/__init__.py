"""The weights of all blocks: kinds, composition and norms of heads, and one head's circuits."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Any

import numpy as np
from dash import Dash, Input, Output, dcc
from dash.development.base_component import Component

from analysis.inside_block.specs import AggregationReport, AggregationSpec
from analysis.weights.specs import KINDS, WeightReport, WeightSpec
from dash_app.errors import explain
from dash_app.jobs.job_and_draw import (
    JobParts,
    Work,
    part_of,
    progress_bar,
    register_job,
    run_safely,
    start_button,
    stop_button,
    stored_problem,
)
from dash_app.page.panel import GRAPH_CONFIG, aria, problem_notice, select_button, target
from dash_app.page.panes import Pane
from dash_app.page.theme import Figure, Theme
from dash_app.page.thin_layout import html
from dash_app.state.context import (
    Context,
    Drawing,
    JobStart,
    NewJob,
    PageId,
    Service,
    View,
    trace_of,
)
from dash_app.state.exports import Export
from dash_app.state.selection import RunRef, Selection
from dash_app.views.weights.circuits import chosen_head, circuit_spec, of_head, state_spec
from dash_app.views.weights.figure import aggregation, composition, kinds, norms, partners


class WeightsId(StrEnum):
    """Ids of this view's components."""

    START = "weights-start"
    STOP = "weights-stop"
    PROGRESS = "weights-progress"
    LAST = "weights-last"
    REPORT = "weights-report"
    CIRCUITS = "weights-circuits"


SPEC, AGGREGATION = WeightSpec(), AggregationSpec()
#: Most heads in the row of each kind.
STRONGEST = 5
HELP = (
    "OV circuit: W_V W_O maps what a head reads to what it writes. Promotes: the tokens that the"
    " head makes more likely when it reads a token's embedding. Copying score: the share of sampled"
    " tokens that the head, when it reads them, promotes most among all sampled tokens (Elhage et"
    " al., 2021).",
    "Reads: embeddings, or the states of the chosen row of this prompt. The states of a layer's own"
    " row are those that its heads read in the model.",
    "QK circuit: W_Q W_Kᵀ scores pairs of states. Looks for: the tokens whose keys score highest"
    " for the token's query, both as embeddings at the same position.",
    "Singular vectors: the directions that a head reads and writes most. The two rows of a"
    " direction list the tokens at its two ends (Millidge and Black, 2022).",
    "Kinds are measured on a seeded random sequence that is repeated once (Olsson et al., 2022);"
    " only Copy comes from the weights. Click a head in the table of the strongest heads to choose"
    " it.",
    "Composition: |W_QK W_OV| / (|W_QK| |W_OV|), with Frobenius norms, from an earlier head to a"
    " later one (Elhage et al., 2021). The report states the value of random matrices of the same"
    " shape as a baseline.",
    "Aggregation: the share of the squared output of attention and of the MLPs that lies in the"
    " four main directions of the states of this prompt that they can read. A mean of states would"
    " lie inside. The control replaces the output matrices by random ones of the same spectrum.",
)


def layout(_context: Context) -> dict[str, Any]:
    """One head's circuits, a button, and the report on all heads after it is measured."""
    body = [
        dcc.Store(id=WeightsId.LAST),
        html.Div(id=WeightsId.CIRCUITS),
        html.Div(start_button("Measure all heads", WeightsId.START), className="controls"),
        progress_bar(WeightsId.PROGRESS, stop_button(WeightsId.STOP)),
        html.Div(id=WeightsId.REPORT),
    ]
    pane = Pane(
        "weights",
        "Weights",
        "What the weights of heads read and write",
        body,
        HELP,
        caption="What the weights alone say, and what heads do on a fixed random sequence.",
    )
    return {pane.name: pane}


def specs(_service: Service, run: RunRef, selection: Selection) -> list[Any]:
    """What the pane shows: the chosen head's circuits, and the reports on all layers."""
    by_states = selection.reads == "states"
    chosen = state_spec(run, selection) if by_states else circuit_spec(run, selection)
    return [chosen, SPEC, *_aggregation(run)]


def _aggregation(run: RunRef) -> list[AggregationSpec]:
    """The spec of the report on aggregation; none for a prompt that is too short."""
    return [AGGREGATION] if len(run.token_ids) > AGGREGATION.rank else []


def measure(
    service: Service, run: RunRef, job: NewJob, *, hand_over: Callable[[dict[str, Any]], None]
) -> dict[str, Any] | None:
    """Compute the report on all heads, and the one on aggregation."""

    def work() -> int:
        service.ask(run.model, SPEC, job(0.0, 0.8))
        for spec in _aggregation(run):
            service.ask(trace_of(run), spec, job(0.8, 1.0))
        hand_over({"done": 1})
        return 1

    return run_safely(work)


def draw(
    service: Service, run: RunRef, selection: Selection, theme: Theme, ready: dict[str, Any] | None
) -> tuple[list[Component], bool]:
    """The reports if they are measured, and whether the button is disabled."""
    try:
        problem = stored_problem(ready)
        if selection.page != "model":
            return [], False
        found = service.peek(run.model, SPEC)
        shares = [service.peek(trace_of(run), spec) for spec in _aggregation(run)]
        shown = [problem_notice(problem)] if problem else []
        shown += report(found, theme, chosen_head(run, selection)) if found else []
        shown += [part for one in shares if one for part in aggregated(one, theme)]
        return shown, found is not None and all(shares)
    except Exception as error:  # noqa: BLE001 - shown in place of the figures
        return [problem_notice(explain(error))], False


def aggregated(found: AggregationReport, theme: Theme) -> list[Component]:
    """How much of attention's and the MLPs' output is in the span of what they read, by layer."""
    title = "Aggregation: share of the output inside the span of the states read"
    return [
        _figure(aggregation(found, theme), title),
        html.P(
            f"{found.sentence} Means over {found.positions} positions of this prompt.",
            className="report-sentence",
        ),
    ]


def draw_circuits(service: Service, run: RunRef, selection: Selection) -> list[Component]:
    """The chosen head's circuits, on the page Model."""
    return of_head(service, run, selection) if selection.page == "model" else []


def report(found: WeightReport, theme: Theme, head: tuple[int, int]) -> list[Component]:
    """The strongest heads of each kind, and four figures."""
    figures = (
        (kinds(found, theme, head), "Kinds of heads, by layer and head"),
        (norms(found, theme), "Norms of the weights by layer"),
        (composition(found, theme), "Largest composition of two heads, by their layers"),
        (partners(found, theme, head), f"Composition with layer {head[0]}, head {head[1]}"),
    )
    text = (
        f"Measured on {found.repeated} random tokens and their repetition (seed {found.seed});"
        f" the copying scores use {found.sampled} sampled tokens. Composition of random matrices"
        f" (baseline): {found.baseline:.3f}."
    )
    shown = [_figure(figure, title) for figure, title in figures]
    return [strongest(found, head), html.P(text, className="report-sentence"), *shown]


def _figure(figure: Figure, title: str) -> Component:
    """A figure with its heading; it has the page's width and its own height."""
    plot = dcc.Graph(
        figure=figure,
        config=GRAPH_CONFIG,
        responsive=True,
        style={"height": f"{figure['layout']['height']}px"},
    )
    heading = html.H3(title, className="sheet-group")
    return html.Div([heading, html.Div(plot, className="figure", role="img", **aria(label=title))])


def strongest(found: WeightReport, head: tuple[int, int]) -> Component:
    """A row for each kind with its strongest heads, as buttons that choose them."""
    rows = []
    for name, scores in zip(KINDS, found.kinds, strict=True):
        order = np.argsort(-np.nan_to_num(scores, nan=-1.0), kind="stable")[:STRONGEST].tolist()
        buttons = [
            html.Td(_head_button(int(found.layers[at]), int(found.heads[at]), scores[at], head))
            for at in order
            if not np.isnan(scores[at])
        ]
        text = html.Th(KINDS[name].label, scope="row", title=KINDS[name].summary)
        rows.append(html.Tr([text, *buttons]))
    return html.Section(
        [
            html.H3("Strongest heads of each kind", className="sheet-group"),
            html.Table(html.Tbody(rows), className="table contributions"),
        ]
    )


def _head_button(layer: int, head: int, score: float, chosen: tuple[int, int]) -> Component:
    return select_button(
        f"layer {layer}, head {head}: {score:.2f}",
        target(layer=layer, heads=(head,)),
        "story-phrase",
        pressed=(layer, head) == chosen,
    )


REPORT = Drawing(
    "weights",
    (Output(WeightsId.REPORT, "children"), Output(WeightsId.START, "disabled")),
    draw,
    parts=(PageId.FOCUS, PageId.ARRANGEMENT),
    computed=(),
    theme=True,
    job=JobStart.ON_REQUEST,
)
CIRCUITS = Drawing(
    "circuits",
    (Output(WeightsId.CIRCUITS, "children"),),
    draw_circuits,
    parts=(PageId.CELL, PageId.FOCUS, PageId.METHOD, PageId.ARRANGEMENT),
)
JOB = JobParts(WeightsId.LAST, WeightsId.PROGRESS, WeightsId.STOP)


def register(app: Dash, context: Context) -> None:
    """Measure on request."""

    def prepare(run: RunRef, selection: Selection, presses: Any) -> Work | None:
        if not presses:
            return None
        hand_over = part_of(REPORT, run, selection)
        return partial(measure, context.service, run, hand_over=hand_over)

    presses = {"presses": Input(WeightsId.START, "n_clicks")}
    register_job(app, context, REPORT, JOB, prepare, presses, patient=True)


HINT = "Press 'Measure all heads' in the view, then export it again."
VIEW = View(
    "weights",
    layout,
    register,
    drawings=(REPORT, CIRCUITS),
    exports={"weights": Export(specs, REPORT.name, HINT)},
)
