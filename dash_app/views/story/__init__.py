"""The one sentence that a result makes."""

from dash_app.state.context import View
from dash_app.views.story import callbacks
from dash_app.views.story.layout import layout

VIEW = View("story", layout, callbacks.register)
