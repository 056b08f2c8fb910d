"""Wiring of the tokens view."""

from __future__ import annotations

from typing import Any

from dash import Dash, Input, Output, no_update

from dash_app.state.context import Context, PageId
from dash_app.state.stores import join, read_run
from dash_app.views.tokens import actions
from dash_app.views.tokens.layout import TokensId


def register(app: Dash, context: Context) -> None:
    """Draw the strip for every run and position."""

    @app.callback(
        Output(TokensId.STRIP, "children"),
        Input(PageId.RUN, "data"),
        Input(PageId.CELL, "data"),
        prevent_initial_call=True,
    )
    def show(data: Any, cell: Any) -> Any:
        run = read_run(data)
        return no_update if run is None else actions.show(context.service, run, join(cell))
