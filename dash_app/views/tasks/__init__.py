"""Many prompts with known answers: suites, and reports on how a model does sums."""

from dash_app.state.context import View
from dash_app.views.tasks import callbacks
from dash_app.views.tasks.layout import layout

VIEW = View("tasks", layout, callbacks.register)
