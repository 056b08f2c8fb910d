"""The sentence that sums up a result."""

from __future__ import annotations

from typing import Any

from dash import Dash, Input, Output, State, no_update

from dash_app.state.context import Context, Drawing, PageId, View
from dash_app.state.exports import Export
from dash_app.views.story import panel

DRAWING = Drawing(
    "story",
    (Output(panel.TEXT, "children"),),
    panel.draw,
    parts=(PageId.CELL, PageId.PINS),
)


def register(app: Dash, _context: Context) -> None:
    """Say in place of the sentence that the first run failed."""

    @app.callback(
        Output(panel.TEXT, "children", allow_duplicate=True),
        Input(PageId.STATUS, "data"),
        State(PageId.RUN, "data"),
        prevent_initial_call=True,
    )
    def first_run_failed(status: Any, shown: Any) -> Any:
        return panel.placeholder(status) if shown is None else no_update


VIEW = View(
    "story",
    panel.layout,
    register,
    drawings=(DRAWING,),
    exports={"story": Export(lambda _service, run, chosen: [panel.spec(run, chosen)])},
)
