"""The block that writes the chosen state, opened."""

from __future__ import annotations

from dash import Output

from dash_app.state.context import Drawing, PageId, View
from dash_app.state.exports import Export
from dash_app.views.block import panel
from dash_app.views.block.panel import BlockId

PARTS = (PageId.CELL, PageId.FOCUS, PageId.LINK, PageId.METHOD, PageId.ARRANGEMENT)
DRAWING = Drawing(
    "block",
    (Output(BlockId.SUBTITLE, "children"), Output(BlockId.BODY, "children")),
    panel.draw,
    parts=PARTS,
)
WHY = Drawing("why", (Output(BlockId.WHY, "children"),), panel.draw_why, parts=PARTS)
VIEW = View(
    "block",
    panel.layout,
    drawings=(DRAWING, WHY),
    exports={"block": Export(lambda _service, run, chosen: [panel.block_spec(run, chosen)])},
)
