"""Wiring of the flow view."""

from __future__ import annotations

from typing import Any

from dash import Dash, Input, Output, no_update

from dash_app.components.go import switch
from dash_app.reduce import read_run
from dash_app.shell import Context, Event, PageId
from dash_app.state import join
from dash_app.views.flow import actions
from dash_app.views.flow.ids import FlowId
from dash_app.views.flow.layout import METHODS

EVENTS = (Event(FlowId.GRAPH, "clickData", actions.clicked, reset=True),)


def register(app: Dash, context: Context) -> None:
    """Draw for every run, cell and method."""

    @app.callback(
        Output(FlowId.GRAPH, "figure"),
        Output(FlowId.SUBTITLE, "children"),
        Input(PageId.RUN, "data"),
        Input(PageId.CELL, "data"),
        Input(PageId.METHOD, "data"),
        Input(PageId.SCHEME, "data"),
        prevent_initial_call=True,
    )
    def draw(data: Any, cell: Any, method: Any, theme: Any) -> Any:
        run = read_run(data)
        if run is None:
            return no_update
        return actions.draw(context.service, run, join(cell, method), theme)

    @app.callback(Output(FlowId.METHOD, "children"), Input(PageId.METHOD, "data"))
    def methods(data: Any) -> Any:
        return switch("method", METHODS, join(data).method, "Shares")
