"""The flow graph of the chosen cell."""

from dash_app.state.context import View
from dash_app.views.flow.callbacks import DRAWINGS, register
from dash_app.views.flow.layout import layout

VIEW = View("flow", layout, register, drawings=DRAWINGS)
