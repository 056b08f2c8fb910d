"""Wiring of the contributions view."""

from __future__ import annotations

from typing import Any

from dash import Dash, Input, Output, no_update

from dash_app.state.context import Context, PageId
from dash_app.state.stores import join, read_run
from dash_app.views.contributions import actions
from dash_app.views.contributions.layout import ContributionsId


def register(app: Dash, context: Context) -> None:
    """Draw for every run, position, choice of tokens and order."""

    @app.callback(
        Output(ContributionsId.SUBTITLE, "children"),
        Output(ContributionsId.TOKENS, "children"),
        Output(ContributionsId.TABLE, "children"),
        inputs={
            "data": Input(PageId.RUN, "data"),
            "parts": [
                Input(part, "data")
                for part in (PageId.CELL, PageId.FOCUS, PageId.PINS, PageId.METHOD)
            ],
            "order": Input(ContributionsId.ORDER, "value"),
            "count": Input(ContributionsId.COUNT, "value"),
        },
        prevent_initial_call=True,
    )
    def draw(data: Any, parts: Any, order: Any, count: Any) -> Any:
        run = read_run(data)
        if run is None:
            return no_update, no_update, no_update
        return actions.draw(context.service, run, join(*parts), str(order), int(count))
