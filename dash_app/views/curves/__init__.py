"""The curves of pinned tokens over the rows, and the strip of all positions."""

from __future__ import annotations

from functools import partial
from typing import Any

from dash import Dash, Input, Output, ctx

from dash_app.jobs.job_and_draw import JobParts, Work, register_job
from dash_app.state.context import Context, Drawing, EventHandler, JobStart, PageId, View
from dash_app.state.exports import Export
from dash_app.state.selection import RunRef, Selection
from dash_app.views.curves import actions
from dash_app.views.curves.layout import CurvesId, layout

CURVES = Drawing(
    "curves",
    (
        Output(CurvesId.GRAPH, "figure"),
        Output(CurvesId.PINS, "children"),
        Output(CurvesId.SUBTITLE, "children"),
        Output(CurvesId.FACTS, "children"),
    ),
    actions.draw,
    parts=(PageId.CELL, PageId.PINS, PageId.CURVE),
    theme=True,
)
QUANTITY = Drawing(
    "curves-quantity",
    (Output(CurvesId.QUANTITY, "children"),),
    actions.draw_quantities,
    parts=(PageId.CURVE,),
    without_run=True,
)
#: The browser moves the mark of the chosen position, so a move does not draw the strip again.
STRIP = Drawing(
    "emergence",
    (
        Output(CurvesId.STRIP, "figure"),
        Output(CurvesId.STRIP_LINE, "children"),
        Output(CurvesId.COMMIT, "disabled"),
    ),
    actions.draw_strip,
    parts=(PageId.WINDOW,),
    theme=True,
    job=JobStart.AUTOMATIC,
    computed=(),
)
JOB = JobParts(CurvesId.LAST, CurvesId.PROGRESS, CurvesId.STOP)


def register(app: Dash, context: Context) -> None:
    """Measure every position; commits on request."""

    def prepare(run: RunRef, _selection: Selection, **_presses: Any) -> Work:
        causal = ctx.triggered_id == CurvesId.COMMIT
        return partial(actions.measure, context.service, run, causal=causal)

    presses = {"presses": Input(CurvesId.COMMIT, "n_clicks")}
    register_job(app, context, STRIP, JOB, prepare, presses, patient=True)


VIEW = View(
    "curves",
    layout,
    register,
    (EventHandler(CurvesId.GRAPH, "clickData", actions.select_clicked),),
    drawings=(CURVES, QUANTITY, STRIP),
    exports={
        "curves": Export(actions.specs, CURVES.name),
        "emergence": Export(actions.strip_specs, STRIP.name),
    },
)
