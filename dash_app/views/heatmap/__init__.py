"""The layer-by-token heatmap and the chosen cell."""

from __future__ import annotations

from dash_app.state.context import View
from dash_app.views.heatmap import callbacks
from dash_app.views.heatmap.layout import layout

VIEW = View("lens", layout, callbacks.register)
