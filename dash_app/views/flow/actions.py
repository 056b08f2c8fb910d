"""The drawings and jobs of the flow view, and what its panel shows.

The browser handles clicks on the picture (``assets/js/flow.js``): Dash omits lists from click data.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from dash import ClientsideFunction, Dash, Input, Output, ctx, no_update, set_props
from dash.development.base_component import Component

from analysis.flow_graph.options import FLOW_METHODS
from analysis.flow_graph.results import Graph
from analysis.lens.specs import LensSpec
from dash_app.errors import Problem
from dash_app.jobs.job_and_draw import (
    JobParts,
    Work,
    part_of,
    patiently,
    register_job,
    run_safely,
    stored_problem,
)
from dash_app.page.panel import FIGURE, FIGURE_LOADING, blank_figure, error_figure, problem_figure
from dash_app.page.token_labels import logit_options, tokens_by_id
from dash_app.state.context import (
    Context,
    Drawing,
    JobStart,
    NewJob,
    PageId,
    Service,
    Shown,
    result_of,
    trace_of,
)
from dash_app.state.selection import RunRef, Selection
from dash_app.views.flow import check, head
from dash_app.views.flow.captions import describe, signed_rows
from dash_app.views.flow.effect_picture import (
    effect_caption,
    effect_figure,
    effect_rows,
)
from dash_app.views.flow.effect_selection import select_effects
from dash_app.views.flow.layout import FlowId
from dash_app.views.flow.link_selection import select
from dash_app.views.flow.picture import Picture, picture
from dash_app.views.flow.signed_picture import select_signed, signed_caption, signed_figure
from dash_app.views.flow.specs import answer, causal_check, look, options, possible, rule, wanted

#: Seconds between the estimates and the first cut, in which the other views are drawn.
OTHERS_FIRST_S = 1.0
AT_THE_BOTTOM = "Row 0 is the embedding, so nothing flows into it. Choose a higher row."


def compute(
    service: Service,
    run: RunRef,
    selection: Selection,
    job: NewJob,
    hand_over: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any] | None:
    """Compute the graph, unless the memo has it.

    Effects are estimated first; ``hand_over`` passes the estimates on before any is measured.
    Measuring them is long work, so every click goes first.
    """

    def work() -> str | None:
        shown, _ = possible(selection, result_of(service, run).info)
        spec = wanted(run, shown)
        if spec is None:
            return None
        trace = trace_of(run)
        service.ask(trace, spec, job(0.0, 0.5))
        if not spec.choice.signed:
            service.ask(trace, LensSpec(), job(0.5, 1.0))  # the nodes' tokens
        further = _measurements(run, shown)
        for number, one in enumerate(further):
            if hand_over is not None:
                hand_over({"part": repr(spec)})
                if number == 0 and service.peek(trace, one) is None:
                    time.sleep(OTHERS_FIRST_S)
            part = job(number / len(further), (number + 1) / len(further))
            service.ask(trace, one, patiently(part))
        return repr(spec)

    return run_safely(work)


def _measurements(run: RunRef, selection: Selection) -> list[Any]:
    """What is cut and measured after effects are estimated: specs of the graph and of the check."""
    if selection.method != "effect":
        return []
    exact, checks = wanted(run, selection, exact=True), causal_check(run, selection)
    found: list[Any] = [] if exact == wanted(run, selection) else [exact]
    return [*found, checks] if selection.effects == "measured" else found


class Panel(NamedTuple):
    """What the panel shows: a figure or a picture, and the caption above it."""

    figure: Any
    picture: Picture | None
    line: str


def draw(
    service: Service, run: RunRef, selection: Selection, theme: Any, ready: dict[str, Any] | None
) -> Panel | Shown:
    """The picture and its caption. Estimated effects are drawn before any is measured."""
    try:
        selection, note = possible(selection, result_of(service, run).info)
        problem, spec = stored_problem(ready), wanted(run, selection)
        estimated = spec if selection.method == "effect" else None
        if problem and (estimated is None or service.peek(trace_of(run), estimated) is None):
            return Panel(problem_figure(problem), None, "")
        if spec is None:
            return Panel(blank_figure(240, AT_THE_BOTTOM), None, "")
        panel = _drawn(service, run, selection, service.ask(trace_of(run), spec), theme)
        panel = panel._replace(line=f"{note} {panel.line}") if note else panel
        lacks = [service.peek(trace_of(run), one) is None for one in _measurements(run, selection)]
        if problem and any(lacks):
            panel = panel._replace(line=f"{panel.line} {_unmeasured(problem)}")
        return Shown(panel, complete=False) if any(lacks) and not problem else panel
    except Exception as error:  # noqa: BLE001 - shown in place of the figure
        return Panel(error_figure(error), None, "")


def _unmeasured(problem: Problem) -> str:
    return f"The links could not be measured. {problem.message} {problem.hint}"


def _drawn(service: Service, run: RunRef, selection: Selection, flow: Graph, theme: Any) -> Panel:
    result = result_of(service, run)
    if flow.method == "signed":
        return _drawn_signed(service, run, selection, flow, theme)
    if flow.method == "effect":
        return _drawn_effects(service, run, selection, flow, theme)
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


def _drawn_effects(
    service: Service, run: RunRef, selection: Selection, flow: Graph, theme: Any
) -> Panel:
    """Measured effects, as far as the memo has them, and estimates of all others."""
    result, trace = result_of(service, run), trace_of(run)
    exact, checks = wanted(run, selection, exact=True), causal_check(run, selection)
    measured = service.peek(trace, exact) if exact is not None else None
    checked = service.peek(trace, checks) if checks is not None else None
    graph = flow if measured is None else measured
    redrawn = selection.effects == "measured"
    drawing = select_effects(graph, rule(selection), estimated=flow, check=checked, redrawn=redrawn)
    named = tokens_by_id(service, run, [flow.token, flow.foil])
    figure = effect_figure(graph, drawing, result, theme=theme)
    figure["layout"]["meta"]["table"] = effect_rows(drawing, result)
    return Panel(figure, None, effect_caption(graph, drawing, named, result.info.parts))


def controls(service: Service, run: RunRef | None, selection: Selection) -> list[Component]:
    """The controls; for a method in logits with the tokens to choose from."""
    if run is None:
        return options(selection)
    info = result_of(service, run).info
    selection, _ = possible(selection, info)
    if not FLOW_METHODS[selection.method].signed:
        groups = 1 < info.kv_heads < info.heads  # one group of all heads is their sum
        return options(selection, answer=len(answer(run)) > 1, grouped=groups, model=info)
    tokens, foils = logit_options(service, run, selection)
    return options(selection, tokens=tokens, foils=foils, model=info)


#: The parts of the selection that decide which graph is drawn.
CHOSEN = (PageId.CELL, PageId.METHOD)
GRAPH = Drawing(
    "flow",
    (
        Output(FlowId.GRAPH, "figure"),
        Output(FlowId.PICTURE, "data"),
        Output(FlowId.SUBTITLE, "children"),
    ),
    draw,
    parts=CHOSEN,
    theme=True,
    job=JobStart.AUTOMATIC,
)
OPTIONS = Drawing(
    "flow-options",
    (Output(FlowId.OPTIONS, "children"),),
    controls,
    parts=(PageId.METHOD, PageId.CELL, PageId.PINS),
    without_run=True,
)
LINK = Drawing(
    "flow-link", (Output(FlowId.INSPECTOR, "children"),), head.inspect, parts=(PageId.LINK,)
)
HEAD = Drawing(
    "flow-head",
    (Output(FlowId.HEAD, "children"),),
    head.inspect_head,
    parts=(PageId.CELL, PageId.FOCUS, PageId.METHOD),
)
LINK_EFFECT = Drawing(
    "flow-link-effect",
    (Output(FlowId.LINK_EFFECT, "children"),),
    head.effect_of_link,
    parts=(PageId.CELL, PageId.LINK, PageId.METHOD),
)
CHECK = Drawing(
    "flow-check",
    (Output(FlowId.CHECKED, "children"),),
    check.draw,
    parts=CHOSEN,
    theme=True,
    job=JobStart.ON_REQUEST,
)
DRAWINGS = (GRAPH, OPTIONS, LINK, LINK_EFFECT, HEAD, CHECK)
GRAPH_JOB = JobParts(FlowId.LAST, FlowId.PROGRESS, FlowId.STOP_GRAPH)
CHECK_JOB = JobParts(FlowId.CHECK_LAST, FlowId.CHECK_PROGRESS, FlowId.STOP)


def register(app: Dash, context: Context) -> None:
    """Compute the flow of a cell, and what a cut of its links does; let the browser draw it."""

    def flow(run: RunRef, selection: Selection) -> Work:
        pass_on = part_of(GRAPH, run, selection)

        def show(part: dict[str, Any]) -> None:
            """Draw the estimates, which can be read while links are cut."""
            pass_on(part)
            set_props(FlowId.BOX, {"className": FIGURE})

        return partial(compute, context.service, run, selection, hand_over=show)

    loading = [(Output(FlowId.BOX, "className"), FIGURE_LOADING, FIGURE)]
    register_job(app, context, GRAPH, GRAPH_JOB, flow, running=loading)

    def measure(run: RunRef, selection: Selection, **presses: Any) -> Work | None:
        if not any(presses.values()):
            return None
        what = check.COMPARE if ctx.triggered_id == FlowId.COMPARE else check.CUT
        return partial(check.measure, context.service, run, selection, what)

    buttons = {"cuts": FlowId.CUT, "compares": FlowId.COMPARE}
    presses = {name: Input(button, "n_clicks") for name, button in buttons.items()}
    disabled = [(Output(button, "disabled"), True, False) for button in buttons.values()]
    register_job(app, context, CHECK, CHECK_JOB, measure, presses, patient=True, running=disabled)
    _register_browser(app)


def _register_browser(app: Dash) -> None:
    """What the browser does by itself: draw the picture, and move the slider of layers."""
    browser: Any = app.clientside_callback  # Dash has no types for it
    browser(
        ClientsideFunction("stratascope", "drawFlow"),
        Output(FlowId.DRAWN, "data"),
        Input(FlowId.PICTURE, "data"),
    )
    browser(
        ClientsideFunction("stratascope", "showFlowLayers"),
        Input(PageId.METHOD, "data"),
        Input(PageId.RUN, "data"),
        Input(PageId.QUERY, "data"),
    )
    browser(
        ClientsideFunction("stratascope", "reportFlowLayers"),
        Input(FlowId.LAYERS, "value"),
        prevent_initial_call=True,
    )
