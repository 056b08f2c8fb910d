"""The weights of all blocks, and the circuits of one head."""

from __future__ import annotations

from functools import partial
from typing import Any

from dash import Dash, Input, Output

from dash_app.jobs.job_and_draw import JobParts, Work, part_of, register_job
from dash_app.state.context import Context, Drawing, JobStart, PageId, View
from dash_app.state.exports import Export
from dash_app.state.selection import RunRef, Selection
from dash_app.views.weights import panel
from dash_app.views.weights.panel import WeightsId

REPORT = Drawing(
    "weights",
    (Output(WeightsId.REPORT, "children"), Output(WeightsId.START, "disabled")),
    panel.draw,
    parts=(PageId.FOCUS, PageId.ARRANGEMENT),
    computed=(),
    theme=True,
    job=JobStart.ON_REQUEST,
)
CIRCUITS = Drawing(
    "circuits",
    (Output(WeightsId.CIRCUITS, "children"),),
    panel.draw_circuits,
    parts=(PageId.FOCUS, PageId.METHOD, PageId.ARRANGEMENT),
)
JOB = JobParts(WeightsId.LAST, WeightsId.PROGRESS, WeightsId.STOP)


def register(app: Dash, context: Context) -> None:
    """Measure on request."""

    def prepare(run: RunRef, selection: Selection, presses: Any) -> Work | None:
        if not presses:
            return None
        hand_over = part_of(REPORT, run, selection)
        return partial(panel.measure, context.service, run, hand_over=hand_over)

    presses = {"presses": Input(WeightsId.START, "n_clicks")}
    register_job(app, context, REPORT, JOB, prepare, presses, patient=True)


HINT = "Press 'Measure all heads' in the view, then export it again."
VIEW = View(
    "weights",
    panel.layout,
    register,
    drawings=(REPORT, CIRCUITS),
    exports={"weights": Export(panel.specs, REPORT.name, HINT)},
)
