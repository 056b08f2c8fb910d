"""The weights of all blocks: kinds, composition and norms of heads, and one head's circuits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from functools import partial
from typing import Any

import numpy as np
from dash import Dash, Input, Output, dcc, html
from dash.development.base_component import Component

from analysis.contract.specs import Ints, Token
from analysis.weights.specs import KINDS, Circuits, CircuitSpec, WeightReport, WeightSpec
from dash_app.errors import explain
from dash_app.jobs.job_and_draw import (
    JobParts,
    Work,
    part_of,
    progress_bar,
    register_job,
    run_safely,
    small_button,
    stop_button,
    stored_problem,
)
from dash_app.page.panel import (
    GRAPH_CONFIG,
    Option,
    aria,
    control,
    menu,
    problem_notice,
    segmented,
    select_button,
    switch,
    target,
)
from dash_app.page.panes import Pane
from dash_app.page.theme import Figure, Theme
from dash_app.page.token_labels import label, percent
from dash_app.state.context import Context, Drawing, JobStart, NewJob, PageId, Service, View
from dash_app.state.exports import Export
from dash_app.state.selection import RunRef, Selection, resolve
from dash_app.views.weights.figure import composition, kinds, norms, partners


class WeightsId(StrEnum):
    """Ids of this view's components."""

    START = "weights-start"
    STOP = "weights-stop"
    PROGRESS = "weights-progress"
    LAST = "weights-last"
    REPORT = "weights-report"
    CIRCUITS = "weights-circuits"


SPEC = WeightSpec()
#: Most heads in the row of each kind.
STRONGEST = 5
HELP = (
    "OV circuit: W_V W_O maps what a head reads to what it writes. Promotes: the tokens that the"
    " head makes more likely when it reads a token's embedding. Copying score: the share of sampled"
    " tokens that the head, when it reads them, promotes most among all sampled tokens (Elhage et"
    " al., 2021).",
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
)


def layout(_context: Context) -> dict[str, Any]:
    """One head's circuits, a button, and the report on all heads after it is measured."""
    body = [
        dcc.Store(id=WeightsId.LAST),
        html.Div(id=WeightsId.CIRCUITS),
        small_button("Measure all heads", WeightsId.START),
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


def chosen_head(run: RunRef, selection: Selection) -> tuple[int, int]:
    """The chosen layer and head; head 0 if none is chosen."""
    chosen = resolve(selection, run)
    return chosen.layer, chosen.heads[0] if chosen.heads else 0


def circuit_spec(run: RunRef, selection: Selection) -> CircuitSpec:
    """The spec of the chosen head's circuits; an unknown token is ignored."""
    token = selection.token
    known = token if token is not None and token < run.vocab else None
    return CircuitSpec(*chosen_head(run, selection), known)


def specs(_service: Service, run: RunRef, selection: Selection) -> list[Any]:
    """What the pane shows: the chosen head's circuits, and the report on all heads."""
    return [circuit_spec(run, selection), SPEC]


def measure(
    service: Service, run: RunRef, job: NewJob, *, hand_over: Callable[[dict[str, Any]], None]
) -> dict[str, Any] | None:
    """Compute the report on all heads."""

    def work() -> int:
        service.ask(run.model, SPEC, job(0.0, 1.0))
        hand_over({"done": 1})
        return 1

    return run_safely(work)


def draw(
    service: Service, run: RunRef, selection: Selection, theme: Theme, ready: dict[str, Any] | None
) -> tuple[list[Component], bool]:
    """The report on all heads if it is measured, and whether the button is disabled."""
    try:
        problem = stored_problem(ready)
        found = service.peek(run.model, SPEC) if selection.page == "model" else None
        if found is None:
            return [problem_notice(problem)] if problem else [], False
        return report(found, theme, chosen_head(run, selection)), True
    except Exception as error:  # noqa: BLE001 - shown in place of the figures
        return [problem_notice(explain(error))], False


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


def draw_circuits(service: Service, run: RunRef, selection: Selection) -> list[Component]:
    """The pickers of layer and head, and the chosen head's circuits."""
    if selection.page != "model":
        return []
    pickers = head_pickers(run, selection)
    try:
        return [pickers, *circuits(service.ask(run.model, circuit_spec(run, selection)))]
    except Exception as error:  # noqa: BLE001 - shown in place of the circuits
        return [pickers, problem_notice(explain(error))]


def head_pickers(run: RunRef, selection: Selection) -> Component:
    """A menu of layers and a switch of heads."""
    layer, head = chosen_head(run, selection)
    layers = [Option(str(one), str(one)) for one in range(run.layers)]
    options = [Option(str(one), str(one)) for one in range(run.heads)]
    pickers = [
        menu("layer", "Layer", layers, str(layer), short=True, derived=True),
        control("Head", segmented(switch("heads", options, str(head), "Head"))),
    ]
    return html.Div(pickers, className="controls")


def words(ids: Iterable[int], known: dict[int, Token]) -> str:
    """Tokens side by side."""
    return "  ".join(label(known[int(one)], 14) for one in ids)


def circuits(found: Circuits) -> list[Component]:
    """A head's circuits: a sentence, what it reads and writes, its singular vectors."""
    known = {token.id: token for token in found.vocabulary}
    which = "all tokens" if found.exact else f"{found.sampled:,} sampled tokens"
    text = (
        f"Layer {found.layer}, head {found.head}: copying score {percent(found.copying)} of"
        f" {which}."
        f" The head raises a token's own logit above the mean for {percent(found.raised)} of them"
        " (chance: 50 %)."
    )
    readings = [
        (label(known[int(token)], 14), words(found.promoted[at], known),
         words(found.suppressed[at], known), words(found.keys[at], known))
        for at, token in enumerate(found.tokens)
    ]  # fmt: skip
    return [
        html.P(text, className="report-sentence"),
        _table("Tokens", ("Token", "Promotes", "Suppresses", "Looks for"), readings),
        _table("OV: singular vectors", ("Value", "Reads", "Writes"),
               _directions(found.ov_values, found.ov_read, found.ov_write, known)),
        _table("QK: singular vectors", ("Value", "Query", "Key"),
               _directions(found.qk_values, found.qk_query, found.qk_key, known)),
        html.P(" ".join(found.notes), className="prompt-hint"),
    ]  # fmt: skip


def _directions(
    values: Any, left: Ints, right: Ints, known: dict[int, Token]
) -> list[tuple[str, str, str]]:
    """One row for each end of each pair of vectors."""
    return [
        (f"{values[at]:.3g}\u00a0{sign}", words(left[at, end], known), words(right[at, end], known))
        for at in range(len(left))
        for end, sign in enumerate("+−")
    ]


def _table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> Component:
    made = [
        html.Tr([html.Th(name, scope="row"), *(html.Td(text, className="mono") for text in texts)])
        for name, *texts in rows
    ]
    return html.Section(
        html.Div(
            [
                html.H3(title, className="sheet-group"),
                html.Table(
                    [html.Thead(html.Tr([html.Th(one, scope="col") for one in head])),
                     html.Tbody(made)],
                    className="table contributions",
                ),
            ],
            className="scroll-x", tabIndex="0", **aria(label=title),
        )
    )  # fmt: skip


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
    parts=(PageId.FOCUS, PageId.METHOD, PageId.ARRANGEMENT),
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
