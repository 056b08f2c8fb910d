"""What every part of the model adds to one token's logit."""

from dash_app.state.context import View
from dash_app.views.contributions import callbacks
from dash_app.views.contributions.layout import layout

VIEW = View("contributions", layout, callbacks.register)
