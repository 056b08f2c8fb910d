"""The callbacks of the flow view.

The browser handles clicks on the picture (``assets/js/flow.js``): Dash omits lists from click data.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, State, ctx, no_update

from dash_app.jobs.job_and_draw import JobParts, Work, draw_run, register_job
from dash_app.page.panel import FIGURE, FIGURE_LOADING
from dash_app.state.context import Context, PageId, join, read_run
from dash_app.views.flow import actions, check, inspector
from dash_app.views.flow.layout import FlowId

GRAPH_JOB = JobParts(FlowId.LAST, FlowId.PROGRESS, FlowId.READY, label=FlowId.SUBTITLE)
CHECK_JOB = JobParts(FlowId.CHECK_LAST, FlowId.CHECK_PROGRESS, FlowId.CHECK_READY, FlowId.STOP)
#: The parts of the selection that decide which graph is drawn.
CHOSEN = (PageId.CELL, PageId.METHOD)


def register(app: Dash, context: Context) -> None:
    """Compute the flow for every run, cell and method, and draw it when it is ready."""
    _register_graph_job(app, context)
    _register_drawing(app, context)
    _register_browser(app)
    _register_controls(app, context)
    _register_check(app, context)


def _register_graph_job(app: Dash, context: Context) -> None:
    def prepare(data: Any, parts: Any) -> Work | None:
        run = read_run(data)
        if run is None:
            return None
        return partial(actions.compute, context.service, run, join(*parts))

    register_job(
        app,
        context,
        GRAPH_JOB,
        {"data": Input(PageId.RUN, "data"), "parts": [Input(part, "data") for part in CHOSEN]},
        prepare,
        running=[(Output(FlowId.BOX, "className"), FIGURE_LOADING, FIGURE)],
    )


def _register_drawing(app: Dash, context: Context) -> None:
    @app.callback(
        Output(FlowId.GRAPH, "figure"),
        Output(FlowId.PICTURE, "data"),
        Output(FlowId.SUBTITLE, "children"),
        inputs={
            "data": Input(PageId.RUN, "data"),
            "parts": [Input(part, "data") for part in CHOSEN],
            "theme": Input(PageId.SCHEME, "data"),
            "ready": Input(FlowId.READY, "data"),
        },
        prevent_initial_call=True,
    )
    def draw(data: Any, parts: Any, theme: Any, ready: Any) -> Any:
        run = read_run(data)
        if run is None:
            return no_update
        selection, fresh = join(*parts), ctx.triggered_id == FlowId.READY
        news = actions.relevant(run, selection, ready, fresh=fresh)
        drawn = actions.draw(context.service, run, selection, theme, news)
        return no_update if drawn is None else drawn


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


def _register_controls(app: Dash, context: Context) -> None:
    @app.callback(
        Output(FlowId.OPTIONS, "children"),
        Input(PageId.METHOD, "data"),
        Input(PageId.RUN, "data"),
        Input(PageId.CELL, "data"),
        Input(PageId.PINS, "data"),
    )
    def options(method: Any, data: Any, cell: Any, pins: Any) -> Any:
        selection = join(method, cell, pins)
        return actions.controls(context.service, read_run(data), selection)

    draw_run(
        app,
        [Output(FlowId.INSPECTOR, "children")],
        partial(inspector.inspect, context.service),
        parts=(PageId.LINK,),
    )


def _register_check(app: Dash, context: Context) -> None:
    def prepare(cuts: Any, compares: Any, data: Any, parts: Any) -> Work | None:
        run = read_run(data)
        if run is None or not (cuts or compares):
            return None
        what = check.COMPARE if ctx.triggered_id == FlowId.COMPARE else check.CUT
        return partial(check.measure, context.service, run, join(*parts), what)

    buttons = (FlowId.CUT, FlowId.COMPARE)
    inputs = {
        "cuts": Input(FlowId.CUT, "n_clicks"),
        "compares": Input(FlowId.COMPARE, "n_clicks"),
        "data": State(PageId.RUN, "data"),
        "parts": [State(part, "data") for part in CHOSEN],
    }
    disabled = [(Output(button, "disabled"), True, False) for button in buttons]
    register_job(app, context, CHECK_JOB, inputs, prepare, patient=True, running=disabled)
    draw_run(
        app,
        [Output(FlowId.CHECKED, "children")],
        partial(check.draw, context.service),
        parts=CHOSEN,
        theme=True,
        ready=FlowId.CHECK_READY,
    )
