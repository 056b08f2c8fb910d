"""Wiring of the flow view."""

from __future__ import annotations

from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, State, ctx, no_update
from dash.exceptions import PreventUpdate

from dash_app.jobs.progress import begun, hand_over, job, news_of
from dash_app.page.panel import FIGURE, FIGURE_LOADING
from dash_app.state.context import Context, PageId
from dash_app.state.stores import join, read_run
from dash_app.views.flow import actions, check, inspector
from dash_app.views.flow.layout import FlowId


def register(app: Dash, context: Context) -> None:
    """Follow the flow for every run, cell and method; draw it when it is there.

    Clicks on it are the browser's (``assets/js/flow.js``): Dash leaves lists out of click data.
    """
    _register_job(app, context)
    _register_drawing(app, context)
    _register_browser(app)
    _register_around(app, context)
    _register_check(app, context)
    _register_checked(app, context)


def _register_job(app: Dash, context: Context) -> None:
    @app.callback(
        Output(FlowId.LAST, "data"),
        Input(PageId.RUN, "data"),
        Input(PageId.CELL, "data"),
        Input(PageId.METHOD, "data"),
        background=True,
        manager=context.manager,
        interval=context.settings.poll_ms,
        progress=[Output(FlowId.FILL, "style"), Output(FlowId.SUBTITLE, "children")],
        running=[(Output(FlowId.BOX, "className"), FIGURE_LOADING, FIGURE)],
        prevent_initial_call=True,
    )
    def follow(set_progress: Any, data: Any, cell: Any, method: Any) -> Any:
        run = read_run(data)
        if run is None:
            return None
        selection = join(cell, method)
        ready = actions.follow(context.service, run, selection, context.jobs(set_progress))
        hand_over(FlowId.READY, ready)
        return run.attempt


def _register_drawing(app: Dash, context: Context) -> None:
    @app.callback(
        Output(FlowId.GRAPH, "figure"),
        Output(FlowId.PICTURE, "data"),
        Output(FlowId.SUBTITLE, "children"),
        Input(PageId.RUN, "data"),
        Input(PageId.CELL, "data"),
        Input(PageId.METHOD, "data"),
        Input(PageId.SCHEME, "data"),
        Input(FlowId.READY, "data"),
        prevent_initial_call=True,
    )
    def draw(data: Any, cell: Any, method: Any, theme: Any, ready: Any) -> Any:
        run = read_run(data)
        if run is None:
            return no_update
        selection = join(cell, method)
        fresh = ctx.triggered_id == FlowId.READY
        news = actions.telling(run, selection, ready, fresh=fresh)
        drawn = actions.draw(context.service, run, selection, theme, news)
        return no_update if drawn is None else drawn


def _register_browser(app: Dash) -> None:
    """What the browser does by itself: draw the picture, and move the layers' slider."""
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


def _register_around(app: Dash, context: Context) -> None:
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

    @app.callback(
        Output(FlowId.INSPECTOR, "children"),
        Input(PageId.LINK, "data"),
        Input(PageId.RUN, "data"),
        prevent_initial_call=True,
    )
    def inspect(link: Any, data: Any) -> Any:
        run = read_run(data)
        return no_update if run is None else inspector.inspect(context.service, run, join(link))


def _register_check(app: Dash, context: Context) -> None:
    @app.callback(
        Output(FlowId.CHECK_LAST, "data"),
        Input(FlowId.CUT, "n_clicks"),
        Input(FlowId.COMPARE, "n_clicks"),
        State(PageId.RUN, "data"),
        State(PageId.CELL, "data"),
        State(PageId.METHOD, "data"),
        **job(
            context,
            FlowId.CHECK_PROGRESS,
            FlowId.STOP,
            [(Output(button, "disabled"), True, False) for button in (FlowId.CUT, FlowId.COMPARE)],
        ),
    )
    def measure(
        set_progress: Any, cuts: Any, compares: Any, data: Any, cell: Any, method: Any
    ) -> Any:
        run = read_run(data)
        if run is None or not (cuts or compares):
            raise PreventUpdate
        what = check.COMPARE if ctx.triggered_id == FlowId.COMPARE else check.CUT
        jobs = context.jobs(begun(set_progress), patient=True)
        ready = check.measure(context.service, run, join(cell, method), what, jobs)
        hand_over(FlowId.CHECK_READY, ready)
        return [cuts, compares]


def _register_checked(app: Dash, context: Context) -> None:
    @app.callback(
        Output(FlowId.CHECKED, "children"),
        Input(PageId.RUN, "data"),
        Input(PageId.CELL, "data"),
        Input(PageId.METHOD, "data"),
        Input(PageId.SCHEME, "data"),
        Input(FlowId.CHECK_READY, "data"),
        prevent_initial_call=True,
    )
    def show(data: Any, cell: Any, method: Any, theme: Any, ready: Any) -> Any:
        run = read_run(data)
        if run is None:
            return no_update
        news = news_of(FlowId.CHECK_READY, ready)
        return check.show(context.service, run, join(cell, method), theme, news)
