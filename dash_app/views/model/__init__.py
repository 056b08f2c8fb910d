"""Reports on a model's embeddings, norms and similarities."""

from __future__ import annotations

from functools import partial
from typing import Any

from dash import Dash, Input, Output

from dash_app.jobs.job_and_draw import JobParts, Work, part_of, register_job
from dash_app.state.context import Context, Drawing, JobStart, View
from dash_app.state.exports import Export
from dash_app.state.selection import RunRef, Selection
from dash_app.views.model import panel
from dash_app.views.model.panel import ModelId

DRAWING = Drawing(
    "model",
    (Output(ModelId.REPORTS, "children"), Output(ModelId.START, "disabled")),
    panel.draw,
    theme=True,
    job=JobStart.ON_REQUEST,
)
JOB = JobParts(ModelId.LAST, ModelId.PROGRESS, ModelId.STOP)


def register(app: Dash, context: Context) -> None:
    """Measure on request."""

    def prepare(run: RunRef, selection: Selection, presses: Any) -> Work | None:
        if not presses:
            return None
        hand_over = part_of(DRAWING, run, selection)
        return partial(panel.measure, context.service, run, hand_over=hand_over)

    presses = {"presses": Input(ModelId.START, "n_clicks")}
    register_job(app, context, DRAWING, JOB, prepare, presses, patient=True)


HINT = "Press 'Measure' in the view, then export it again."
VIEW = View(
    "model",
    panel.layout,
    register,
    drawings=(DRAWING,),
    exports={"model": Export(panel.specs, DRAWING.name, HINT)},
)
