"""The sentence that sums up a result."""

from __future__ import annotations

from functools import partial
from typing import Any

from dash import Dash, Input, Output, State, no_update

from dash_app.jobs.job_and_draw import draw_run
from dash_app.state.context import Context, PageId, View
from dash_app.views.story import panel


def register(app: Dash, context: Context) -> None:
    """Write the sentence for every run and position."""
    draw_run(
        app,
        [Output(panel.TEXT, "children")],
        partial(panel.draw, context.service),
        parts=(PageId.CELL, PageId.PINS),
    )

    @app.callback(
        Output(panel.TEXT, "children", allow_duplicate=True),
        Input(PageId.STATUS, "data"),
        State(PageId.RUN, "data"),
        prevent_initial_call=True,
    )
    def first_run_failed(status: Any, shown: Any) -> Any:
        return panel.placeholder(status) if shown is None else no_update


VIEW = View("story", panel.layout, register)
