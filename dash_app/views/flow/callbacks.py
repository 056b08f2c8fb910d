"""Wiring of the flow view."""

from __future__ import annotations

from typing import Any

from dash import Dash, Input, Output, State, ctx, no_update, set_props
from dash.exceptions import PreventUpdate

from dash_app.components.panel import FIGURE, FIGURE_LOADING
from dash_app.reduce import read_run
from dash_app.shell import Context, PageId
from dash_app.state import join
from dash_app.views.flow import actions, check, inspector
from dash_app.views.flow.ids import FlowId


def register(app: Dash, context: Context) -> None:
    """Follow the flow for every run, cell and method; draw it when it is there.

    Clicks on it are the browser's (``assets/js/flow.js``): Dash leaves lists out of click data.
    """
    _register_job(app, context)
    _register_drawing(app, context)
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
        if ready is None:
            raise PreventUpdate
        set_props(FlowId.READY, {"data": ready})  # not returned: the drawing would wait for it
        return run.attempt


def _register_drawing(app: Dash, context: Context) -> None:
    @app.callback(
        Output(FlowId.GRAPH, "figure"),
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
        news = ready if ctx.triggered_id == FlowId.READY else None
        drawn = actions.draw(context.service, run, join(cell, method), theme, news)
        return no_update if drawn is None else drawn


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
        background=True,
        manager=context.manager,
        interval=context.settings.poll_ms,
        progress=[Output(FlowId.CHECK_FILL, "style"), Output(FlowId.CHECK_LABEL, "children")],
        progress_default=[{"width": "0%"}, ""],
        running=[
            (Output(FlowId.CUT, "disabled"), True, False),
            (Output(FlowId.COMPARE, "disabled"), True, False),
            (Output(FlowId.CHECK_PROGRESS, "className"), "progress is-busy", "progress is-idle"),
        ],
        cancel=[Input(FlowId.STOP, "n_clicks")],
        prevent_initial_call=True,
    )
    def measure(
        set_progress: Any, cuts: Any, compares: Any, data: Any, cell: Any, method: Any
    ) -> Any:
        run = read_run(data)
        if run is None or not (cuts or compares):
            raise PreventUpdate
        what = check.COMPARE if ctx.triggered_id == FlowId.COMPARE else check.CUT
        jobs = context.jobs(set_progress, patient=True)
        ready = check.measure(context.service, run, join(cell, method), what, jobs)
        if ready is None:
            raise PreventUpdate
        set_props(FlowId.CHECK_READY, {"data": ready})
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
        news = ready if ctx.triggered_id == FlowId.CHECK_READY else None
        return check.show(context.service, run, join(cell, method), theme, news)
