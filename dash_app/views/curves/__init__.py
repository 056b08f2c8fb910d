"""The curves of pinned tokens over the rows, and the strip of all positions."""

from __future__ import annotations

from functools import partial
from typing import Any

from dash import Dash, Input, Output, ctx

from dash_app.jobs.job_and_draw import JobParts, Work, draw_run, register_job
from dash_app.state.context import Context, EventHandler, PageId, View, join, read_run
from dash_app.views.curves import actions
from dash_app.views.curves.layout import CurvesId, layout, quantities

JOB = JobParts(CurvesId.LAST, CurvesId.PROGRESS, CurvesId.READY, CurvesId.STOP)


def register(app: Dash, context: Context) -> None:
    """Draw the curves and the strip; the browser moves the mark of the chosen row."""
    draw_run(
        app,
        [
            Output(CurvesId.GRAPH, "figure"),
            Output(CurvesId.PINS, "children"),
            Output(CurvesId.SUBTITLE, "children"),
            Output(CurvesId.FACTS, "children"),
        ],
        partial(actions.draw, context.service),
        parts=(PageId.CELL, PageId.PINS, PageId.CURVE),
        theme=True,
    )
    _register_strip(app, context)

    @app.callback(Output(CurvesId.QUANTITY, "children"), Input(PageId.CURVE, "data"))
    def switch(data: Any) -> Any:
        return quantities(join(data))


def _register_strip(app: Dash, context: Context) -> None:
    def prepare(data: Any, presses: Any) -> Work | None:
        run = read_run(data)
        if run is None:
            return None
        causal = ctx.triggered_id == CurvesId.COMMIT
        return partial(actions.measure, context.service, run, causal=causal)

    inputs = {"data": Input(PageId.RUN, "data"), "presses": Input(CurvesId.COMMIT, "n_clicks")}
    register_job(app, context, JOB, inputs, prepare, patient=True)
    draw_run(
        app,
        [
            Output(CurvesId.STRIP, "figure"),
            Output(CurvesId.STRIP_LINE, "children"),
            Output(CurvesId.COMMIT, "disabled"),
        ],
        partial(actions.draw_strip, context.service),
        parts=(PageId.WINDOW,),
        state=(PageId.CELL,),
        theme=True,
        ready=CurvesId.READY,
    )


VIEW = View(
    "curves",
    layout,
    register,
    (EventHandler(CurvesId.GRAPH, "clickData", actions.select_clicked),),
)
