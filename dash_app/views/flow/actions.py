"""Computes the flow graph of the chosen state, and decides what the panel shows."""

from __future__ import annotations

from typing import Any, NamedTuple

from dash import no_update
from dash.development.base_component import Component

from analysis.flow_graph.results import Graph
from analysis.lens.specs import LensSpec
from dash_app.jobs.job_and_draw import run_safely, stored_problem
from dash_app.page.logit_tokens import logit_options, tokens_by_id
from dash_app.page.panel import blank_figure, error_figure, problem_figure
from dash_app.state.context import NewJob, Service, result_of, trace_of
from dash_app.state.selection import RunRef, Selection
from dash_app.views.flow.captions import describe, signed_rows
from dash_app.views.flow.link_selection import select
from dash_app.views.flow.options import options
from dash_app.views.flow.picture import Picture, picture
from dash_app.views.flow.signed_picture import select_signed, signed_caption, signed_figure
from dash_app.views.flow.specs import answer, look, rule, wanted

AT_THE_BOTTOM = "Row 0 is the embedding, so nothing flows into it. Choose a higher row."


def compute(
    service: Service, run: RunRef, selection: Selection, job: NewJob
) -> dict[str, Any] | None:
    """Compute the graph, unless the memo has it."""

    def work() -> str | None:
        spec = wanted(run, selection)
        if spec is not None:
            service.ask(trace_of(run), spec, job(0.0, 0.5))
            if spec.method != "signed":
                service.ask(trace_of(run), LensSpec(), job(0.5, 1.0))  # the nodes' tokens
        return repr(spec) if spec else None

    return run_safely(work)


class Panel(NamedTuple):
    """What the panel shows: a figure or a picture, and the caption above it."""

    figure: Any
    picture: Picture | None
    line: str


def draw(
    service: Service, run: RunRef, selection: Selection, theme: Any, ready: dict[str, Any] | None
) -> Panel:
    """The picture and its caption."""
    try:
        if problem := stored_problem(ready):
            return Panel(problem_figure(problem), None, "")
        spec = wanted(run, selection)
        if spec is None:
            return Panel(blank_figure(240, AT_THE_BOTTOM), None, "")
        return _drawn(service, run, selection, service.ask(trace_of(run), spec), theme)
    except Exception as error:  # noqa: BLE001 - shown in place of the figure
        return Panel(error_figure(error), None, "")


def _drawn(service: Service, run: RunRef, selection: Selection, flow: Graph, theme: Any) -> Panel:
    result = result_of(service, run)
    if flow.method == "signed":
        return _drawn_signed(service, run, selection, flow, theme)
    grid = service.ask(trace_of(run), LensSpec())
    drawing = select(flow, rule(selection), look(selection, result.info))
    return Panel(
        no_update,
        picture(flow, result, grid, drawing=drawing),
        " ".join([describe(drawing, flow, result, grid), *_without_effect(selection, flow)]),
    )


def _without_effect(selection: Selection, flow: Graph) -> list[str]:
    """Why hiding the start or folding sinks changed nothing."""
    lines = []
    if selection.start != "keep" and not flow.hidden_positions:
        lines.append(
            "No start token is hidden: position 0 is not a start token or sink, or it is the root."
        )
    if selection.sinks == "fold" and not flow.sink_positions:
        lines.append("No sink is folded: there is none, or it is hidden or the root.")
    return lines


def _drawn_signed(
    service: Service, run: RunRef, selection: Selection, flow: Graph, theme: Any
) -> Panel:
    result, drawing = result_of(service, run), select_signed(flow, rule(selection))
    named = tokens_by_id(service, run, [flow.token, flow.foil])
    figure = signed_figure(flow, drawing, result, theme=theme)
    figure["layout"]["meta"]["table"] = signed_rows(drawing, flow, result)
    return Panel(figure, None, signed_caption(flow, drawing, named))


def controls(service: Service, run: RunRef | None, selection: Selection) -> list[Component]:
    """The controls; for signed flow with the tokens to choose from."""
    if run is None:
        return options(selection)
    info = result_of(service, run).info
    if selection.method != "signed":
        groups = 1 < info.kv_heads < info.heads  # one group of all heads is their sum
        return options(selection, answer=len(answer(run)) > 1, grouped=groups, model=info)
    tokens, foils = logit_options(service, run, selection)
    return options(selection, tokens=tokens, foils=foils, model=info)
