"""The layer-by-token heatmap and the chosen cell."""

from __future__ import annotations

from functools import partial
from typing import Any

from dash import ClientsideFunction, Dash, Input, Output

from dash_app.jobs.job_and_draw import JobParts, Work, part_of, register_job
from dash_app.state.context import Context, Drawing, JobStart, PageId, View
from dash_app.state.exports import Export
from dash_app.state.selection import RunRef, Selection
from dash_app.views.heatmap import actions, inspector
from dash_app.views.heatmap.layout import LensId, layout

#: The parts of the selection that decide what is computed.
CHOSEN = (PageId.CELL, PageId.LENS, PageId.COLOUR, PageId.WINDOW, PageId.EDITS)


HEATMAP = Drawing(
    "lens",
    (
        Output(LensId.GRAPH, "figure"),
        Output(LensId.OPTIONS, "children"),
        Output(LensId.STATE, "children"),
        Output(LensId.INSPECTOR, "children"),
        Output(LensId.GRAPH, "style"),
    ),
    actions.draw,
    parts=(*CHOSEN, PageId.PINS, PageId.FIND),
    theme=True,
    job=JobStart.AUTOMATIC,
    computed=CHOSEN,
    notes=True,
)
PROMOTED = Drawing(
    "lens-adds",
    (Output(LensId.ADDS, "children"),),
    inspector.promoted_section,
    parts=(PageId.CELL, PageId.FOCUS, PageId.ADDS, PageId.PINS),
)
OVERVIEW = Drawing(
    "lens-overview",
    (Output(LensId.OVERVIEW, "children"),),
    actions.overview,
    parts=(PageId.CELL, PageId.WINDOW),
    theme=True,
)
JOB = JobParts(LensId.LAST, LensId.PROGRESS, LensId.STOP)


def register(app: Dash, context: Context) -> None:
    """Compute what the memo lacks of a heatmap; ``heatmap.js`` handles clicks."""

    def prepare(run: RunRef, selection: Selection, **_presses: Any) -> Work:
        hand_over = part_of(HEATMAP, run, selection)
        return partial(actions.compute, context.service, run, selection, hand_over=hand_over)

    presses = {"resume": Input(LensId.RESUME, "n_clicks")}
    register_job(app, context, HEATMAP, JOB, prepare, presses)
    browser: Any = app.clientside_callback  # Dash has no types for it
    browser(
        ClientsideFunction("stratascope", "reportFindText"),
        Input(LensId.FIND, "value"),
        prevent_initial_call=True,
    )
    browser(
        ClientsideFunction("stratascope", "showFindText"),
        Input(PageId.FIND, "data"),
        Input(PageId.QUERY, "data"),
    )


EXPORTS = {
    "lens": Export(actions.specs, HEATMAP.name),
    "cell": Export(
        actions.cell,
        hint="Choose a cell that the heatmap decodes, then export it again.",
        small=True,
    ),
    "promoted": Export(
        actions.written,
        hint="Choose a component in the tab Writes, then export it again.",
        small=True,
    ),
}
VIEW = View("lens", layout, register, drawings=(HEATMAP, OVERVIEW, PROMOTED), exports=EXPORTS)
