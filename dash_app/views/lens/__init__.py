"""The layer-by-token heatmap and the chosen cell."""

from dash_app.shell import View
from dash_app.views.lens import callbacks
from dash_app.views.lens.layout import layout

VIEW = View("lens", layout, callbacks.register)
