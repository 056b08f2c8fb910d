"""From the chosen state to the flow into it."""

from __future__ import annotations

from typing import Any, NamedTuple

from dash import no_update
from dash.development.base_component import Component

from analysis.errors import AnalysisError
from analysis.flow_graph.results import Graph
from analysis.flow_graph.specs import FlowSpec
from analysis.lens.specs import LensSpec
from dash_app.jobs.progress import attempt, trouble_in
from dash_app.page.logit_tokens import logit_options, names
from dash_app.page.panel import blank, failed, told
from dash_app.state.context import NewJob, Service, result_of, trace_of
from dash_app.state.selection import RunRef, Selection
from dash_app.views.flow.captions import describe, signed_rows
from dash_app.views.flow.link_selection import select
from dash_app.views.flow.options import options
from dash_app.views.flow.picture import Picture, picture
from dash_app.views.flow.signed_picture import select_signed, signed_caption, signed_figure
from dash_app.views.flow.specs import answer, look, rule, wanted

AT_THE_BOTTOM = "Row 0 is the embedding: nothing flows into it. Choose a higher row."


def follow(
    service: Service, run: RunRef, selection: Selection, job: NewJob
) -> dict[str, Any] | None:
    """Compute the graph unless the memo has it; how that ended, None if it was cancelled."""

    def work() -> str | None:
        spec = wanted(run, selection)
        if spec is not None:
            service.ask(trace_of(run), spec, job(0.0, 0.5))
            if spec.method != "signed":
                service.ask(trace_of(run), LensSpec(), job(0.5, 1.0))  # its nodes' tokens
        return repr(spec) if spec else None

    ready = attempt(work)
    failed = ready is not None and trouble_in(ready)
    return {**(ready or {}), "of": _key(run, selection)} if failed else ready


def _key(run: RunRef, selection: Selection) -> str | None:
    """Names the graph that is asked for; None where what is asked for is none."""
    try:
        return repr(wanted(run, selection))
    except AnalysisError:
        return None


def telling(
    run: RunRef, selection: Selection, ready: dict[str, Any] | None, *, fresh: bool
) -> dict[str, Any] | None:
    """What of a job's end is news for the graph that is asked for now.

    A failure is, until another job ends: the call that would have said so may be dropped, and the
    picture of another cell would stand there with nothing said. One of another graph never is.
    """
    if trouble_in(ready):
        return ready if ready and ready.get("of") == _key(run, selection) else None
    return ready if fresh else None


class Shown(NamedTuple):
    """What the panel shows: a figure or a picture, and the line above it."""

    figure: Any
    picture: Picture | None
    line: str


def draw(
    service: Service, run: RunRef, selection: Selection, theme: Any, ready: dict[str, Any] | None
) -> Shown | None:
    """The picture and how much of the flow it shows; None while the graph is being computed."""
    try:
        if wrong := trouble_in(ready):
            return Shown(told(wrong), None, "")
        spec = wanted(run, selection)
        if spec is None:
            return Shown(blank(240, AT_THE_BOTTOM), None, "")
        flow = _remembered(service, run, spec)
        if flow is None and ready is not None and ready.get("done") == repr(spec):
            flow = service.ask(trace_of(run), spec)  # the memo could not keep it
        return None if flow is None else _drawn(service, run, selection, flow, theme)
    except Exception as error:  # noqa: BLE001 - said where the figure would be
        return Shown(failed(error), None, "")


def _remembered(service: Service, run: RunRef, spec: FlowSpec) -> Graph | None:
    """The graph, where the memo has all that its picture is made of."""
    trace = trace_of(run)
    flow: Graph | None = service.peek(trace, spec)
    named = spec.method == "signed" or service.peek(trace, LensSpec()) is not None
    return flow if named else None


def _drawn(service: Service, run: RunRef, selection: Selection, flow: Graph, theme: Any) -> Shown:
    result = result_of(service, run)
    if flow.method == "signed":
        return _drawn_signed(service, run, selection, flow, theme)
    grid = service.ask(trace_of(run), LensSpec())
    drawing = select(flow, rule(selection), look(selection, result.info))
    return Shown(
        no_update,
        picture(flow, result, grid, drawing=drawing),
        " ".join([describe(drawing, flow, result, grid), *_in_vain(selection, flow)]),
    )


def _in_vain(selection: Selection, flow: Graph) -> list[str]:
    """What was to be hidden or folded and is not there: the picture is then as it was."""
    said = []
    if selection.start != "keep" and not flow.hidden_positions:
        said.append("No start is hidden: position 0 is no start token or sink, or is the root.")
    if selection.sinks == "fold" and not flow.sink_positions:
        said.append("No sink is folded: there is none, or it is hidden or the root.")
    return said


def _drawn_signed(
    service: Service, run: RunRef, selection: Selection, flow: Graph, theme: Any
) -> Shown:
    result, drawing = result_of(service, run), select_signed(flow, rule(selection))
    named = names(service, run, [flow.token, flow.foil])
    figure = signed_figure(flow, drawing, result, theme=theme)
    figure["layout"]["meta"]["table"] = signed_rows(drawing, flow, result)
    return Shown(figure, None, signed_caption(flow, drawing, named))


def controls(service: Service, run: RunRef | None, selection: Selection) -> list[Component]:
    """The controls, with the tokens to choose from where the flow is signed."""
    if run is None:
        return options(selection)
    if selection.method != "signed":
        info = result_of(service, run).info
        groups = 1 < info.kv_heads < info.heads  # one group of all heads is their sum
        return options(selection, answer=len(answer(run)) > 1, grouped=groups)
    tokens, foils = logit_options(service, run, selection)
    return options(selection, tokens=tokens, foils=foils)
