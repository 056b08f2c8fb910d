"""The attention patterns of one layer."""

from dash_app.state.context import View
from dash_app.views.attention import callbacks
from dash_app.views.attention.layout import layout

VIEW = View("attention", layout, callbacks.register, callbacks.EVENTS)
