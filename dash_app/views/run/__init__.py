"""Model, prompt, Run and Cancel, progress: everything that asks the model."""

from dash_app.state.context import View
from dash_app.views.run import callbacks
from dash_app.views.run.layout import layout

VIEW = View("run", layout, callbacks.register, mirrors=callbacks.MIRRORS)
