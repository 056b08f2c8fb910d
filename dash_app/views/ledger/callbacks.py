"""Wiring of the ledger view."""

from __future__ import annotations

from typing import Any

from dash import Dash, Input, Output
from dash.exceptions import PreventUpdate

from dash_app.state.context import Context, PageId
from dash_app.state.stores import join, read_run
from dash_app.views.ledger import actions
from dash_app.views.ledger.layout import LedgerId


def register(app: Dash, context: Context) -> None:
    """Measure for every run and position."""

    @app.callback(
        Output(PageId.BADGE, "children"),
        Output(LedgerId.MODEL, "children"),
        Output(LedgerId.RUN, "children"),
        Input(PageId.RUN, "data"),
        Input(PageId.CELL, "data"),
        background=True,
        manager=context.manager,
        interval=context.settings.poll_ms,
        progress=[Output(LedgerId.FILL, "style"), Output(LedgerId.LABEL, "children")],
        progress_default=[{"width": "0%"}, ""],
        prevent_initial_call=True,
    )
    def measure(set_progress: Any, data: Any, cell: Any) -> Any:
        run = read_run(data)
        if run is None:
            raise PreventUpdate
        jobs = context.jobs(set_progress)
        found = actions.measure(context.service, run, join(cell), jobs)
        if found is None:
            raise PreventUpdate
        return found
