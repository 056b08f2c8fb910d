"""Reports on a model's embeddings, norms and similarities."""

from __future__ import annotations

from functools import partial
from typing import Any

from dash import Dash, Input, Output, State

from dash_app.jobs.job_and_draw import JobParts, Work, draw_run, register_job
from dash_app.state.context import Context, PageId, View, read_run
from dash_app.views.model import panel
from dash_app.views.model.panel import ModelId

JOB = JobParts(ModelId.LAST, ModelId.PROGRESS, ModelId.READY, ModelId.STOP)


def register(app: Dash, context: Context) -> None:
    """Measure on request; draw the reports that are measured."""

    def prepare(presses: Any, data: Any) -> Work | None:
        run = read_run(data)
        if run is None or not presses:
            return None
        return partial(panel.measure, context.service, run, hand_over=JOB.hand_over)

    inputs = {"presses": Input(ModelId.START, "n_clicks"), "data": State(PageId.RUN, "data")}
    register_job(app, context, JOB, inputs, prepare, patient=True)
    draw_run(
        app,
        [Output(ModelId.REPORTS, "children"), Output(ModelId.START, "disabled")],
        partial(panel.draw, context.service),
        theme=True,
        ready=ModelId.READY,
    )


VIEW = View("model", panel.layout, register)
