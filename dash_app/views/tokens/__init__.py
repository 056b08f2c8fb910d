"""The strip of prompt and answer tokens."""

from dash_app.state.context import View
from dash_app.views.tokens import callbacks
from dash_app.views.tokens.layout import layout

VIEW = View("tokens", layout, callbacks.register)
