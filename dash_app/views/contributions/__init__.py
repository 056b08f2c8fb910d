"""The contribution of every part of the model to one token's logit."""

from __future__ import annotations

from dash import Output

from dash_app.state.context import Drawing, PageId, View
from dash_app.state.exports import Export
from dash_app.views.contributions import actions
from dash_app.views.contributions.layout import ContributionsId, layout

DRAWING = Drawing(
    "contributions",
    (
        Output(ContributionsId.SUBTITLE, "children"),
        Output(ContributionsId.TOKENS, "children"),
        Output(ContributionsId.TABLE, "children"),
    ),
    actions.draw,
    parts=(PageId.CELL, PageId.FOCUS, PageId.PINS, PageId.METHOD),
    controls={"order": ContributionsId.ORDER, "count": ContributionsId.COUNT},
)
VIEW = View(
    "contributions",
    layout,
    drawings=(DRAWING,),
    exports={"contributions": Export(lambda _service, run, chosen: [actions.spec(run, chosen)])},
)
