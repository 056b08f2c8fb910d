"""Wiring of the story view."""

from __future__ import annotations

from typing import Any

from dash import Dash, Input, Output, State, no_update

from dash_app.state.context import Context, PageId
from dash_app.state.stores import join, read_run
from dash_app.views.story import actions
from dash_app.views.story.layout import StoryId


def register(app: Dash, context: Context) -> None:
    """Tell the story of every run and position."""

    @app.callback(
        Output(StoryId.TEXT, "children"),
        Input(PageId.RUN, "data"),
        Input(PageId.CELL, "data"),
        Input(PageId.PINS, "data"),
        prevent_initial_call=True,
    )
    def tell(data: Any, cell: Any, pins: Any) -> Any:
        run = read_run(data)
        return no_update if run is None else actions.tell(context.service, run, join(cell, pins))

    @app.callback(
        Output(StoryId.TEXT, "children", allow_duplicate=True),
        Input(PageId.STATUS, "data"),
        State(PageId.RUN, "data"),
        prevent_initial_call=True,
    )
    def excuse(status: Any, shown: Any) -> Any:
        return actions.excuse(status) if shown is None else no_update
