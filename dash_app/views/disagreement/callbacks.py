"""Wiring of the readings view."""

from __future__ import annotations

from typing import Any

from dash import Dash, Input, Output, State, ctx, no_update
from dash.exceptions import PreventUpdate

from dash_app.jobs.progress import begun, hand_over, job, news_of
from dash_app.state.context import Context, PageId
from dash_app.state.stores import join, read_run
from dash_app.views.disagreement import actions
from dash_app.views.disagreement.layout import ReadingsId

#: What decides which decoders are compared, and what is drawn.
CHOSEN = (PageId.CELL, PageId.LENS, PageId.WINDOW, PageId.DIFFER)


def register(app: Dash, context: Context) -> None:
    """Compare when asked; show what has been compared."""
    _register_job(app, context)
    _register_picture(app, context)


def _register_job(app: Dash, context: Context) -> None:
    @app.callback(
        Output(ReadingsId.LAST, "data"),
        inputs={
            "presses": Input(ReadingsId.START, "n_clicks"),
            "data": State(PageId.RUN, "data"),
            "parts": [State(part, "data") for part in CHOSEN],
        },
        **job(context, ReadingsId.PROGRESS, ReadingsId.STOP),
    )
    def compute(set_progress: Any, presses: Any, data: Any, parts: Any) -> Any:
        run = read_run(data)
        if run is None or not presses:
            raise PreventUpdate
        jobs = context.jobs(begun(set_progress), patient=True)
        ready = actions.compute(context.service, run, join(*parts), jobs)
        hand_over(ReadingsId.READY, ready)
        return presses


def _register_picture(app: Dash, context: Context) -> None:
    @app.callback(
        Output(ReadingsId.GRAPH, "figure"),
        Output(ReadingsId.OPTIONS, "children"),
        Output(ReadingsId.NOTE, "children"),
        Output(ReadingsId.START, "disabled"),
        Output(ReadingsId.DRAWN, "data"),
        inputs={
            "data": Input(PageId.RUN, "data"),
            "parts": [Input(part, "data") for part in CHOSEN],
            "theme": Input(PageId.SCHEME, "data"),
            "ready": Input(ReadingsId.READY, "data"),
            "drawn": State(ReadingsId.DRAWN, "data"),
        },
        prevent_initial_call=True,
    )
    def show(data: Any, parts: Any, theme: Any, ready: Any, drawn: Any) -> Any:
        run = read_run(data)
        if run is None:
            return (no_update,) * 5
        selection = join(*parts)
        key = actions.key(run, selection, theme, ready)
        moved = {item["prop_id"] for item in ctx.triggered} == {f"{PageId.CELL}.data"}
        if moved and key == drawn and actions.still(run, selection):
            return (no_update,) * 5
        news = news_of(ReadingsId.READY, ready)
        return *actions.show(context.service, run, selection, theme, news), key
