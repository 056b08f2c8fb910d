"""Wiring of the curves view."""

from __future__ import annotations

from typing import Any

from dash import Dash, Input, Output, State, ctx, no_update
from dash.exceptions import PreventUpdate

from dash_app.jobs.progress import begun, hand_over, job, news_of
from dash_app.page.controls import options_of, switch
from dash_app.state.context import Context, Event, PageId
from dash_app.state.options import CURVES
from dash_app.state.stores import join, read_run
from dash_app.views.curves import actions
from dash_app.views.curves.layout import CurvesId

EVENTS = (Event(CurvesId.GRAPH, "clickData", actions.clicked),)


def register(app: Dash, context: Context) -> None:
    """Draw for every run, position and set of pins; a change of row is the browser's alone."""
    _register_curves(app, context)
    _register_job(app, context)
    _register_strip(app, context)


def _register_curves(app: Dash, context: Context) -> None:
    @app.callback(
        Output(CurvesId.GRAPH, "figure"),
        Output(CurvesId.PINS, "children"),
        Output(CurvesId.SUBTITLE, "children"),
        Output(CurvesId.FACTS, "children"),
        Input(PageId.RUN, "data"),
        Input(PageId.CELL, "data"),
        Input(PageId.PINS, "data"),
        Input(PageId.CURVE, "data"),
        Input(PageId.SCHEME, "data"),
        prevent_initial_call=True,
    )
    def draw(data: Any, cell: Any, pins: Any, curve: Any, theme: Any) -> Any:
        run = read_run(data)
        if run is None:
            return (no_update,) * 4
        return actions.draw(context.service, run, join(cell, pins, curve), theme)

    @app.callback(Output(CurvesId.QUANTITY, "children"), Input(PageId.CURVE, "data"))
    def quantities(data: Any) -> Any:
        return switch("curve", options_of(CURVES), join(data).curve, "Curves")


def _register_job(app: Dash, context: Context) -> None:
    @app.callback(
        Output(CurvesId.LAST, "data"),
        Input(PageId.RUN, "data"),
        Input(CurvesId.COMMIT, "n_clicks"),
        **job(context, CurvesId.PROGRESS, CurvesId.STOP),
    )
    def measure(set_progress: Any, data: Any, _presses: Any) -> Any:
        run = read_run(data)
        if run is None:
            raise PreventUpdate
        causal = ctx.triggered_id == CurvesId.COMMIT
        jobs = context.jobs(begun(set_progress), patient=True)
        ready = actions.measure(context.service, run, jobs, causal=causal)
        hand_over(CurvesId.READY, ready)
        return run.attempt


def _register_strip(app: Dash, context: Context) -> None:
    @app.callback(
        Output(CurvesId.STRIP, "figure"),
        Output(CurvesId.STRIP_LINE, "children"),
        Output(CurvesId.COMMIT, "disabled"),
        Input(PageId.RUN, "data"),
        Input(PageId.WINDOW, "data"),
        Input(PageId.SCHEME, "data"),
        Input(CurvesId.READY, "data"),
        State(PageId.CELL, "data"),
        prevent_initial_call=True,
    )
    def show(data: Any, window: Any, theme: Any, ready: Any, cell: Any) -> Any:
        run = read_run(data)
        if run is None:
            return (no_update,) * 3
        news = news_of(CurvesId.READY, ready)
        return actions.show_strip(context.service, run, join(cell, window), theme, news)
