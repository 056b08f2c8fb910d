"""Many prompts with known answers: suites, and reports on how a model adds."""

from dash_app.state.context import View
from dash_app.views.tasks.callbacks import register
from dash_app.views.tasks.layout import layout

VIEW = View("tasks", layout, register)
