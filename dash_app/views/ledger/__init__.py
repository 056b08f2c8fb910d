"""The ledger: every identity that the pictures rely on, with its error."""

from __future__ import annotations

from functools import partial

from dash import Dash, Output

from dash_app.jobs.job_and_draw import JobParts, Work, register_job
from dash_app.state.context import Context, Drawing, JobStart, PageId, View
from dash_app.state.exports import Export
from dash_app.state.selection import RunRef, Selection
from dash_app.views.ledger import panel
from dash_app.views.ledger.panel import LedgerId

DRAWING = Drawing(
    "ledger",
    (
        Output(PageId.BADGE, "children"),
        Output(LedgerId.MODEL, "children"),
        Output(LedgerId.RUN, "children"),
    ),
    panel.draw,
    parts=(PageId.CELL,),
    job=JobStart.AUTOMATIC,
)
JOB = JobParts(LedgerId.LAST, LedgerId.PROGRESS)


def register(app: Dash, context: Context) -> None:
    """Measure for every run and position."""

    def prepare(run: RunRef, selection: Selection) -> Work:
        return partial(panel.measure, context.service, run, selection)

    register_job(app, context, DRAWING, JOB, prepare)


VIEW = View(
    "ledger",
    panel.layout,
    register,
    drawings=(DRAWING,),
    exports={"ledger": Export(panel.specs)},
)
