"""The heatmap of disagreement between decoders."""

from __future__ import annotations

from functools import partial
from typing import Any

from dash import Dash, Input, Output, State, ctx, no_update

from dash_app.jobs.job_and_draw import JobParts, Work, register_job
from dash_app.state.context import Context, PageId, View, join, read_run
from dash_app.views.disagreement import actions
from dash_app.views.disagreement.layout import DisagreementId, layout

#: The parts of the selection that decide which decoders are compared, and what is drawn.
CHOSEN = (PageId.CELL, PageId.LENS, PageId.WINDOW, PageId.DIFFER)
JOB = JobParts(
    DisagreementId.LAST, DisagreementId.PROGRESS, DisagreementId.READY, DisagreementId.STOP
)


def register(app: Dash, context: Context) -> None:
    """Compare on request; draw what is compared."""

    def prepare(presses: Any, data: Any, parts: Any) -> Work | None:
        run = read_run(data)
        if run is None or not presses:
            return None
        return partial(actions.compute, context.service, run, join(*parts))

    inputs = {
        "presses": Input(DisagreementId.START, "n_clicks"),
        "data": State(PageId.RUN, "data"),
        "parts": [State(part, "data") for part in CHOSEN],
    }
    register_job(app, context, JOB, inputs, prepare, patient=True)
    _register_drawing(app, context)


def _register_drawing(app: Dash, context: Context) -> None:
    @app.callback(
        Output(DisagreementId.GRAPH, "figure"),
        Output(DisagreementId.OPTIONS, "children"),
        Output(DisagreementId.NOTE, "children"),
        Output(DisagreementId.START, "disabled"),
        Output(DisagreementId.DRAWN, "data"),
        inputs={
            "data": Input(PageId.RUN, "data"),
            "parts": [Input(part, "data") for part in CHOSEN],
            "theme": Input(PageId.SCHEME, "data"),
            "ready": Input(DisagreementId.READY, "data"),
            "drawn": State(DisagreementId.DRAWN, "data"),
        },
        prevent_initial_call=True,
    )
    def draw(data: Any, parts: Any, theme: Any, ready: Any, drawn: Any) -> Any:
        run = read_run(data)
        if run is None:
            return no_update
        selection = join(*parts)
        key = actions.key(run, selection, theme, ready)
        moved = {item["prop_id"] for item in ctx.triggered} == {f"{PageId.CELL}.data"}
        if moved and key == drawn and actions.same_picture(run, selection):
            return no_update
        news = ready if ctx.triggered_id == DisagreementId.READY else None
        return *actions.draw(context.service, run, selection, theme, news), key


VIEW = View("disagreement", layout, register)
