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
from dash_app.views.flow.layout import SOURCES

EVENTS = (Event(FlowId.GRAPH, "clickData", actions.clicked, reset=True),)


def register(app: Dash, context: Context) -> None:
    """Draw for every run, cell and number of sources."""

    @app.callback(
        Output(FlowId.GRAPH, "figure"),
        Output(FlowId.SUBTITLE, "children"),
        Input(PageId.RUN, "data"),
        Input(PageId.CELL, "data"),
        Input(PageId.SOURCES, "data"),
        Input(PageId.SCHEME, "data"),
        prevent_initial_call=True,
    )
    def draw(data: Any, cell: Any, sources: Any, theme: Any) -> Any:
        run = read_run(data)
        if run is None:
            return no_update
        return actions.draw(context.service, run, join(cell, sources), theme)

    @app.callback(Output(FlowId.SOURCES, "children"), Input(PageId.SOURCES, "data"))
    def sources(data: Any) -> Any:
        return switch("sources", SOURCES, str(join(data).sources), "Attention sources")
