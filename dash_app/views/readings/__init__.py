"""Where the readings disagree."""

from dash_app.shell import View
from dash_app.views.readings import callbacks
from dash_app.views.readings.layout import layout

VIEW = View("readings", layout, callbacks.register)
