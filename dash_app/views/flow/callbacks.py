"""The drawings and jobs of the flow view.

The browser handles clicks on the picture (``assets/js/flow.js``): Dash omits lists from click data.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, ctx

from dash_app.jobs.job_and_draw import JobParts, Work, part_of, register_job
from dash_app.page.panel import FIGURE, FIGURE_LOADING
from dash_app.state.context import Context, Drawing, JobStart, PageId
from dash_app.state.selection import RunRef, Selection
from dash_app.views.flow import actions, check, head, inspector
from dash_app.views.flow.layout import FlowId

#: The parts of the selection that decide which graph is drawn.
CHOSEN = (PageId.CELL, PageId.METHOD)
GRAPH = Drawing(
    "flow",
    (
        Output(FlowId.GRAPH, "figure"),
        Output(FlowId.PICTURE, "data"),
        Output(FlowId.SUBTITLE, "children"),
    ),
    actions.draw,
    parts=CHOSEN,
    theme=True,
    job=JobStart.AUTOMATIC,
)
OPTIONS = Drawing(
    "flow-options",
    (Output(FlowId.OPTIONS, "children"),),
    actions.controls,
    parts=(PageId.METHOD, PageId.CELL, PageId.PINS),
    without_run=True,
)
LINK = Drawing(
    "flow-link", (Output(FlowId.INSPECTOR, "children"),), inspector.inspect, parts=(PageId.LINK,)
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
GRAPH_JOB = JobParts(FlowId.LAST, FlowId.PROGRESS)
CHECK_JOB = JobParts(FlowId.CHECK_LAST, FlowId.CHECK_PROGRESS, FlowId.STOP)


def register(app: Dash, context: Context) -> None:
    """Compute the flow of a cell, and what a cut of its links does; let the browser draw it."""

    def flow(run: RunRef, selection: Selection) -> Work:
        pass_on = part_of(GRAPH, run, selection)
        return partial(actions.compute, context.service, run, selection, hand_over=pass_on)

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
