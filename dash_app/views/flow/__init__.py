"""The flow graph of the chosen cell."""

from dash_app.state.context import View
from dash_app.state.exports import Export
from dash_app.views.flow import head, specs
from dash_app.views.flow.actions import CHECK, DRAWINGS, GRAPH, register
from dash_app.views.flow.layout import layout

EXPORTS = {
    "flow": Export(specs.graphs, GRAPH.name),
    "links": Export(specs.graphs),
    "check": Export(
        specs.checks,
        CHECK.name,
        "Press 'Cut the drawn links' or 'Compare all methods' in the view, then export it again.",
    ),
    "link": Export(
        specs.links, hint="Choose a link of the flow, then export it again.", small=True
    ),
    "head": Export(
        head.specs, hint="Choose a head in the attention panel, then export it again.", small=True
    ),
}
VIEW = View("flow", layout, register, drawings=DRAWINGS, exports=EXPORTS)
