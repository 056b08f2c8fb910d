"""The causal check: cut the drawn links and measure, and compare the methods on this prompt."""

from __future__ import annotations

import math
from typing import Any

from dash import dcc
from dash.development.base_component import Component

from analysis.errors import AnalysisError
from analysis.flow_graph.options import FLOW_METHODS
from analysis.flow_graph.results import CausalCheck, CausalComparison
from dash_app.errors import explain
from dash_app.jobs.job_and_draw import run_safely, stored_problem
from dash_app.page.panel import GRAPH_CONFIG, aria, problem_notice
from dash_app.page.thin_layout import html
from dash_app.page.token_labels import label, tokens_by_id
from dash_app.state.context import NewJob, Service, result_of, trace_of
from dash_app.state.selection import RunRef, Selection
from dash_app.views.flow.picture import scatter
from dash_app.views.flow.specs import causal_check, comparison, possible

BOTTOM = "Row 0 is the embedding, so there is no link to cut."
CUT, COMPARE = "cut", "compare"


def measure(
    service: Service, run: RunRef, selection: Selection, what: str, job: NewJob
) -> dict[str, Any] | None:
    """Cut the links and measure, unless the memo has the result."""

    def work() -> str:
        trace = trace_of(run)
        shown, _ = possible(selection, result_of(service, run).info)
        if what == COMPARE:
            service.ask(trace, comparison(run, shown), job(0.0, 1.0))
        elif (spec := causal_check(run, shown)) is not None:
            service.ask(trace, spec, job(0.0, 1.0))
        return what

    return run_safely(work)


def draw(
    service: Service, run: RunRef, selection: Selection, theme: Any, ready: dict[str, Any] | None
) -> list[Component]:
    """The measurements of the selected graph; empty until a button is pressed."""
    problem = stored_problem(ready)
    try:
        selection, _ = possible(selection, result_of(service, run).info)
        shown = _results(service, run, selection, theme, pressed=ready is not None and not problem)
        # Earlier results stay below the problem.
        return [problem_notice(problem), *shown] if problem else shown
    except Exception as error:  # noqa: BLE001 - shown in place of the result
        return [problem_notice(explain(error))]


def _results(
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
    """The check's spec; None if the graph can't be checked."""
    try:
        return causal_check(run, selection)
    except AnalysisError:
        return None


def _scatter(service: Service, run: RunRef, cut: CausalCheck, theme: Any) -> Component:
    figure = scatter(cut, result_of(service, run), theme=theme)
    what = _logit(service, run, cut.token, cut.foil)
    rest = f" {cut.unmeasured:,} weaker links were not cut." if cut.unmeasured else ""
    note = (
        f"Each link was cut alone: attention was knocked out before the softmax, or an MLP's output"
        f" was set to zero. Then {what} at position {cut.position} ({cut.logit:+.2f}) was measured"
        f" again. {cut.without_cut:,} links (residual, biases, sinks) can't be cut.{rest}"
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
    known = tokens_by_id(service, run, [token, foil])
    text = f"the logit of {label(known[token])}"
    return f"{text} minus that of {label(known[foil])}" if foil >= 0 else text


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
                                html.Th("Links by", scope="col"),
                                html.Th("Correlation", scope="col", className="num"),
                            ]
                        )
                    ),
                    html.Tbody(rows),
                ],
                className="table ledger-table flow-compared",
            ),
            html.P(
                f"Spearman's rank correlation of the drawn flow into the last row with |change of"
                f" {what}|, over the same {len(compared.effect)} cuts with heads summed. Signed"
                " flow has direct paths only.",
                className="prompt-hint",
            ),
        ],
        className="flow-comparison",
    )
