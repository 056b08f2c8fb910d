"""Whether it adds up: every identity, with its error."""

from dash_app.state.context import View
from dash_app.views.ledger import callbacks
from dash_app.views.ledger.layout import layout

VIEW = View("ledger", layout, callbacks.register)
