"""The attention patterns of one layer."""

from __future__ import annotations

from functools import partial
from typing import Any

from dash import ClientsideFunction, Dash, Input, Output

from dash_app.jobs.job_and_draw import draw_run
from dash_app.state.context import Context, EventHandler, PageId, View
from dash_app.views.attention import panel
from dash_app.views.attention.panel import AttentionId


def register(app: Dash, context: Context) -> None:
    """Draw for every run, layer, choice of heads and position; the browser sets the slider."""
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
    draw_run(
        app,
        [
            Output(AttentionId.GRAPH, "figure"),
            Output(AttentionId.HEADS, "children"),
            Output(AttentionId.SUBTITLE, "children"),
        ],
        partial(panel.draw, context.service),
        parts=(PageId.FOCUS, PageId.CELL),
        theme=True,
    )


VIEW = View(
    "attention",
    panel.layout,
    register,
    (EventHandler(AttentionId.GRAPH, "clickData", panel.select_clicked),),
)
