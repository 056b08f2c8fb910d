"""What a model's embeddings and norms are."""

from dash_app.state.context import View
from dash_app.views.model import callbacks
from dash_app.views.model.layout import layout

VIEW = View("model", layout, callbacks.register)
