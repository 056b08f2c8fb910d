"""The strip of prompt and answer tokens."""

from __future__ import annotations

from dash import Output

from dash_app.state.context import Drawing, PageId, View
from dash_app.state.exports import Export
from dash_app.views.tokens import panel

DRAWING = Drawing("tokens", (Output(panel.STRIP, "children"),), panel.draw, parts=(PageId.CELL,))
VIEW = View(
    "tokens",
    panel.layout,
    drawings=(DRAWING,),
    exports={"tokens": Export(lambda _service, run, _chosen: [panel.spec(run)])},
)
