"""Wiring of the attention view."""

from __future__ import annotations

from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, no_update

from dash_app.state.context import Context, Event, PageId
from dash_app.state.stores import join, read_run
from dash_app.views.attention import actions
from dash_app.views.attention.layout import AttentionId

EVENTS = (Event(AttentionId.GRAPH, "clickData", actions.clicked),)


def register(app: Dash, context: Context) -> None:
    """Draw for every run, layer, choice of heads and position; the slider is the browser's."""
    browser: Any = app.clientside_callback  # Dash has no types for it
    browser(
        ClientsideFunction("stratascope", "reportAttentionLayer"),
        Input(AttentionId.LAYER, "value"),
        prevent_initial_call=True,
    )
    browser(
        ClientsideFunction("stratascope", "showAttentionLayer"),
        Input(PageId.FOCUS, "data"),
        Input(PageId.RUN, "data"),
        Input(PageId.QUERY, "data"),
    )

    @app.callback(
        Output(AttentionId.GRAPH, "figure"),
        Output(AttentionId.HEADS, "children"),
        Output(AttentionId.SUBTITLE, "children"),
        Input(PageId.RUN, "data"),
        Input(PageId.FOCUS, "data"),
        Input(PageId.CELL, "data"),
        Input(PageId.SCHEME, "data"),
        prevent_initial_call=True,
    )
    def draw(data: Any, focus: Any, cell: Any, theme: Any) -> Any:
        run = read_run(data)
        if run is None:
            return no_update
        return actions.draw(context.service, run, join(focus, cell), theme)
