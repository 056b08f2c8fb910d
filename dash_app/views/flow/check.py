"""The causal check: cut the drawn links and see, and compare the methods on this prompt."""

from __future__ import annotations

import math
from typing import Any

from dash import dcc, html
from dash.development.base_component import Component

from analysis.errors import AnalysisError
from analysis.flow_graph.options import FLOW_METHODS
from analysis.flow_graph.results import CausalCheck, CausalComparison
from dash_app.errors import explain
from dash_app.jobs.progress import attempt, trouble_in
from dash_app.page.controls import aria
from dash_app.page.logit_tokens import names
from dash_app.page.panel import GRAPH_CONFIG, trouble
from dash_app.page.token_labels import label
from dash_app.state.context import NewJob, Service, result_of, trace_of
from dash_app.state.selection import RunRef, Selection
from dash_app.views.flow.check_figure import scatter
from dash_app.views.flow.specs import check, comparison

BOTTOM = "Row 0 is the embedding: there is no link to cut."
CUT, COMPARE = "cut", "compare"


def measure(
    service: Service, run: RunRef, selection: Selection, what: str, job: NewJob
) -> dict[str, Any] | None:
    """Cut and measure unless the memo has it; how that ended, None if it was cancelled."""

    def work() -> str:
        trace = trace_of(run)
        if what == COMPARE:
            service.ask(trace, comparison(run, selection), job(0.0, 1.0))
        elif (spec := check(run, selection)) is not None:
            service.ask(trace, spec, job(0.0, 1.0))
        return what

    return attempt(work)


def show(
    service: Service, run: RunRef, selection: Selection, theme: Any, ready: dict[str, Any] | None
) -> list[Component]:
    """What has been measured of the graph at hand: nothing until a button is pressed."""
    wrong = trouble_in(ready)
    try:
        shown = _shown(service, run, selection, theme, pressed=ready is not None and not wrong)
        return [trouble(wrong), *shown] if wrong else shown  # what was measured before stays
    except Exception as error:  # noqa: BLE001 - said where the result would be
        return [trouble(explain(error))]


def _shown(
    service: Service, run: RunRef, selection: Selection, theme: Any, *, pressed: bool
) -> list[Component]:
    trace = trace_of(run)
    shown: list[Component] = []
    spec = _check(run, selection)
    cut = service.peek(trace, spec) if spec is not None else None
    if cut is not None:
        shown.append(_scatter(service, run, cut, theme))
    compared = service.peek(trace, comparison(run, selection))
    if compared is not None:
        shown.append(_table(service, run, compared))
    if not shown and pressed and spec is None:
        shown.append(html.P(BOTTOM, className="muted"))
    return shown


def _check(run: RunRef, selection: Selection) -> Any:
    """The check's request; None where the graph can't be checked, which the button says."""
    try:
        return check(run, selection)
    except AnalysisError:
        return None


def _scatter(service: Service, run: RunRef, cut: CausalCheck, theme: Any) -> Component:
    figure = scatter(cut, result_of(service, run), theme=theme)
    what = _logit(service, run, cut.token, cut.foil)
    rest = f", {cut.unmeasured:,} weaker ones were left" if cut.unmeasured else ""
    note = (
        f"Each link was cut alone (attention knocked out before the softmax, an MLP's output set"
        f" to zero) and {what} at position {cut.position}, {cut.logit:+.2f}, measured again."
        f" {cut.without_cut:,} links have nothing to cut (residual, biases, sinks){rest}."
        f" {cut.passes} forward passes."
    )
    picture = html.Div(
        dcc.Graph(figure=figure, config=GRAPH_CONFIG, responsive=False),
        className="figure flow-scatter",
        role="img",
        **aria(label=str(figure["layout"]["title"]["text"])),
    )
    return html.Div([picture, html.P(note, className="prompt-hint")], className="flow-cut")


def _logit(service: Service, run: RunRef, token: int, foil: int) -> str:
    known = names(service, run, [token, foil])
    text = f"the logit of {label(known[token])}"
    return f"{text} less that of {label(known[foil])}" if foil >= 0 else text


def _table(service: Service, run: RunRef, compared: CausalComparison) -> Component:
    titles = {name: method.label for name, method in FLOW_METHODS.items()}
    pairs = list(zip(compared.methods, compared.correlations.tolist(), strict=True))
    pairs.sort(key=lambda pair: -math.inf if math.isnan(pair[1]) else pair[1], reverse=True)
    rows = [
        html.Tr(
            [
                html.Th(titles[name], scope="row"),
                html.Td("none" if math.isnan(value) else f"{value:+.2f}", className="num"),
            ]
        )
        for name, value in pairs
    ]
    what = _logit(service, run, compared.token, compared.foil)
    return html.Div(
        [
            html.H3("Methods on this prompt", className="inspector-title"),
            html.Table(
                [
                    html.Thead(
                        html.Tr(
                            [
                                html.Th("Shares by", scope="col"),
                                html.Th("Correlation", scope="col", className="num"),
                            ]
                        )
                    ),
                    html.Tbody(rows),
                ],
                className="ledger-table flow-compared",
            ),
            html.P(
                f"Spearman's, of what each draws into the last row and |change of {what}|, over"
                f" the same {len(compared.effect)} cuts, heads together. Signed flow sees direct"
                " paths only.",
                className="prompt-hint",
            ),
        ],
        className="flow-comparison",
    )
