"""The heatmap of disagreement between decoders."""

from __future__ import annotations

from functools import partial
from typing import Any

from dash import Dash, Input, Output

from dash_app.jobs.job_and_draw import JobParts, Work, register_job
from dash_app.state.context import Context, Drawing, JobStart, PageId, View
from dash_app.state.exports import Export
from dash_app.state.selection import RunRef, Selection
from dash_app.views.disagreement import actions
from dash_app.views.disagreement.layout import DisagreementId, layout

#: The parts of the selection that decide which decoders are compared.
COMPARED = (PageId.LENS, PageId.WINDOW, PageId.DIFFER)
DRAWING = Drawing(
    "disagreement",
    (
        Output(DisagreementId.GRAPH, "figure"),
        Output(DisagreementId.OPTIONS, "children"),
        Output(DisagreementId.NOTE, "children"),
        Output(DisagreementId.START, "disabled"),
    ),
    actions.draw_moved,
    parts=(PageId.CELL, *COMPARED),
    theme=True,
    job=JobStart.ON_REQUEST,
    computed=COMPARED,
    notes=True,
)
JOB = JobParts(DisagreementId.LAST, DisagreementId.PROGRESS, DisagreementId.STOP)


def register(app: Dash, context: Context) -> None:
    """Compare on request."""

    def prepare(run: RunRef, selection: Selection, presses: Any) -> Work | None:
        if not presses:
            return None
        return partial(actions.compute, context.service, run, selection)

    presses = {"presses": Input(DisagreementId.START, "n_clicks")}
    register_job(app, context, DRAWING, JOB, prepare, presses, patient=True)


HINT = "Press 'Compare decoders' in the view, then export it again."
VIEW = View(
    "disagreement",
    layout,
    register,
    drawings=(DRAWING,),
    exports={"disagreement": Export(actions.specs, DRAWING.name, HINT)},
)
