"""Wiring of the flow view."""

from __future__ import annotations

from typing import Any

from dash import Dash, Input, Output, ctx, no_update, set_props
from dash.exceptions import PreventUpdate

from dash_app.components.go import switch
from dash_app.components.panel import FIGURE, FIGURE_LOADING
from dash_app.reduce import read_run
from dash_app.shell import Context, PageId
from dash_app.state import join
from dash_app.views.flow import actions
from dash_app.views.flow.ids import FlowId
from dash_app.views.flow.layout import METHODS


def register(app: Dash, context: Context) -> None:
    """Follow the flow for every run, cell and method; draw it when it is there.

    Clicks on it are the browser's (``assets/js/flow.js``): Dash leaves lists out of click data.
    """
    _register_job(app, context)
    _register_drawing(app, context)

    @app.callback(Output(FlowId.METHOD, "children"), Input(PageId.METHOD, "data"))
    def methods(data: Any) -> Any:
        return switch("method", METHODS, join(data).method, "Shares")


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
