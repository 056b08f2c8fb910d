"""Wiring of the model view."""

from __future__ import annotations

from functools import partial
from typing import Any

from dash import Dash, Input, Output, State, no_update
from dash.exceptions import PreventUpdate

from dash_app.jobs.progress import begun, hand_over, job, news_of
from dash_app.state.context import Context, PageId
from dash_app.state.stores import read_run
from dash_app.views.model import actions
from dash_app.views.model.layout import ModelId


def register(app: Dash, context: Context) -> None:
    """Measure when asked; show what has been measured."""
    _register_job(app, context)

    @app.callback(
        Output(ModelId.REPORTS, "children"),
        Output(ModelId.START, "disabled"),
        Input(PageId.RUN, "data"),
        Input(PageId.SCHEME, "data"),
        Input(ModelId.READY, "data"),
        prevent_initial_call=True,
    )
    def show(data: Any, theme: Any, ready: Any) -> Any:
        run = read_run(data)
        if run is None:
            return no_update, no_update
        news = news_of(ModelId.READY, ready)
        return actions.show(context.service, run, theme, news)


def _register_job(app: Dash, context: Context) -> None:
    @app.callback(
        Output(ModelId.LAST, "data"),
        Input(ModelId.START, "n_clicks"),
        State(PageId.RUN, "data"),
        **job(context, ModelId.PROGRESS, ModelId.STOP),
    )
    def measure(set_progress: Any, presses: Any, data: Any) -> Any:
        run = read_run(data)
        if run is None or not presses:
            raise PreventUpdate
        jobs = context.jobs(begun(set_progress), patient=True)
        tell = partial(hand_over, ModelId.READY)
        tell(actions.measure(context.service, run, jobs, tell))
        return presses
