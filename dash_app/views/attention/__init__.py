"""The attention patterns of one layer."""

from __future__ import annotations

from typing import Any

from dash import ClientsideFunction, Dash, Input, Output

from dash_app.state.context import Context, Drawing, EventHandler, PageId, View
from dash_app.state.exports import Export
from dash_app.views.attention import panel
from dash_app.views.attention.panel import AttentionId

DRAWING = Drawing(
    "attention",
    (
        Output(AttentionId.GRAPH, "figure"),
        Output(AttentionId.HEADS, "children"),
        Output(AttentionId.SUBTITLE, "children"),
        Output(AttentionId.OPTIONS, "children"),
    ),
    panel.draw,
    parts=(PageId.FOCUS, PageId.CELL),
    theme=True,
)


def register(app: Dash, _context: Context) -> None:
    """Let the browser set the slider of layers."""
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


VIEW = View(
    "attention",
    panel.layout,
    register,
    (EventHandler(AttentionId.GRAPH, "clickData", panel.select_clicked),),
    drawings=(DRAWING,),
    exports={"attention": Export(panel.specs, DRAWING.name)},
)
