"""The ledger: every identity that the pictures rely on, with its error."""

from __future__ import annotations

from typing import Any

from dash import Dash, Input, Output
from dash.exceptions import PreventUpdate

from dash_app.jobs.job_and_draw import JobParts, job_options
from dash_app.state.context import Context, PageId, View, join, read_run
from dash_app.views.ledger import panel
from dash_app.views.ledger.panel import LedgerId

JOB = JobParts(last="", bar=LedgerId.PROGRESS)


def register(app: Dash, context: Context) -> None:
    """Measure for every run and position."""

    @app.callback(
        Output(PageId.BADGE, "children"),
        Output(LedgerId.MODEL, "children"),
        Output(LedgerId.RUN, "children"),
        Input(PageId.RUN, "data"),
        Input(PageId.CELL, "data"),
        **job_options(context, JOB),
    )
    def measure(set_progress: Any, data: Any, cell: Any) -> Any:
        run = read_run(data)
        if run is None:
            raise PreventUpdate
        found = panel.measure(context.service, run, join(cell), context.jobs(set_progress))
        if found is None:
            raise PreventUpdate
        return found


VIEW = View("ledger", panel.layout, register)
