"""Pinned tokens over the rows."""

from dash_app.state.context import View
from dash_app.views.curves import callbacks
from dash_app.views.curves.layout import layout

VIEW = View("curves", layout, callbacks.register, callbacks.EVENTS)
