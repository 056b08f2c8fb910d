"""The flow into the chosen cell."""

from dash_app.state.context import View
from dash_app.views.flow import callbacks
from dash_app.views.flow.layout import layout

VIEW = View("flow", layout, callbacks.register)
