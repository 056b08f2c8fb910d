"""Where the readings disagree."""

from __future__ import annotations

from dash_app.state.context import View
from dash_app.views.disagreement import callbacks
from dash_app.views.disagreement.layout import layout

VIEW = View("readings", layout, callbacks.register)
