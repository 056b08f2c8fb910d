"""The flow graph of the chosen cell."""

from dash_app.state.context import View
from dash_app.state.exports import Export
from dash_app.views.flow import specs
from dash_app.views.flow.callbacks import CHECK, DRAWINGS, GRAPH, register
from dash_app.views.flow.layout import layout

EXPORTS = {
    "flow": Export(specs.graphs, GRAPH.name),
    "links": Export(specs.graphs),
    "check": Export(specs.checks, CHECK.name),
    "inspector": Export(specs.links),
}
VIEW = View("flow", layout, register, drawings=DRAWINGS, exports=EXPORTS)
