"""Two prompts or models: which states carry the answer from one to the other; where they differ."""

from __future__ import annotations

from functools import partial
from typing import Any

from dash import Dash, Input, Output, State, set_props

from dash_app.jobs.job_and_draw import JobParts, Work, part_of, register_job
from dash_app.page.panel import notice
from dash_app.state.context import (
    Context,
    Drawing,
    EventHandler,
    JobStart,
    Mirror,
    PageId,
    View,
)
from dash_app.state.exports import Export
from dash_app.state.selection import RunRef, Selection
from dash_app.views.compare import actions, difference
from dash_app.views.compare.layout import FORM, CompareId, draw_options, layout

SWEEP = Drawing(
    "patching",
    (
        Output(CompareId.GRAPH, "figure"),
        Output(CompareId.PICTURE, "hidden"),
        Output(CompareId.CAPTION, "children"),
        Output(CompareId.ALIGNED, "children"),
        Output(CompareId.STRONGEST, "children"),
        Output(CompareId.REST, "hidden"),
        *(Output(control, "invalid") for control in FORM.values()),
        Output(CompareId.MESSAGE, "children"),
    ),
    actions.draw,
    parts=(PageId.SWEEP, PageId.REQUEST, PageId.ARRANGEMENT),
    theme=True,
    job=JobStart.AUTOMATIC,
    computed=(PageId.SWEEP, PageId.REQUEST),
    without_run=True,
)
OPTIONS = Drawing(
    "patching-options",
    (
        Output(CompareId.OPTIONS, "children"),
        Output(CompareId.ALIGN, "children"),
        Output(CompareId.INSIDE, "hidden"),
        Output(CompareId.PAIRS, "children"),
        Output(CompareId.PATCH, "children"),
    ),
    draw_options,
    parts=(PageId.SWEEP, PageId.REQUEST, PageId.ARRANGEMENT),
    without_run=True,
)
DIFFERENCE = Drawing(
    "difference",
    (
        Output(CompareId.APART_GRAPH, "figure"),
        Output(CompareId.APART_CAPTION, "children"),
        Output(CompareId.APART_OPTIONS, "children"),
    ),
    difference.draw,
    parts=(PageId.SWEEP, PageId.REQUEST, PageId.ARRANGEMENT),
    theme=True,
    job=JobStart.AUTOMATIC,
    computed=(PageId.SWEEP, PageId.REQUEST),
    without_run=True,
)
APART = JobParts(CompareId.APART_LAST, CompareId.APART_PROGRESS, CompareId.APART_STOP)
JOB = JobParts(CompareId.LAST, CompareId.PROGRESS, CompareId.STOP)


def register(app: Dash, context: Context) -> None:
    """Estimate and measure the pair in the selection; a button continues after a stop."""

    def prepare(run: RunRef | None, selection: Selection, **_presses: Any) -> Work | None:
        pass_on = part_of(SWEEP, run, selection)
        return partial(actions.compute, context.service, selection, hand_over=pass_on)

    presses = {"presses": Input(CompareId.CONTINUE, "n_clicks")}
    running = [(Output(CompareId.CONTINUE, "disabled"), True, False)]
    register_job(app, context, SWEEP, JOB, prepare, presses, patient=True, running=running)

    def compare(_run: RunRef | None, selection: Selection) -> Work:
        return partial(difference.compute, context.service, selection)

    register_job(app, context, DIFFERENCE, APART, compare)

    @app.callback(
        Input(CompareId.PATCH, "n_clicks"),
        *(Input(control, "n_submit") for control in FORM.values()),
        *(State(control, "value") for control in FORM.values()),
        prevent_initial_call=True,
    )
    def send(*values: Any) -> None:
        form = dict(zip(FORM, values[-len(FORM) :], strict=True))
        refused = actions.too_long(form)
        shown = [notice(refused, kind="danger")] if refused else []
        set_props(CompareId.REFUSED, {"children": shown})
        if not refused:
            set_props(CompareId.SENT, {"data": form})

    @app.callback(
        Input(CompareId.PAIR, "n_clicks"),
        State(CompareId.PAIR_CLEAN, "value"),
        State(CompareId.PAIR_CORRUPTED, "value"),
        prevent_initial_call=True,
    )
    def pair_up(_click: Any, clean: Any, corrupted: Any) -> None:
        set_props(CompareId.PAIRED, {"data": [clean, corrupted]})


EXPORTS = {
    "patching": Export(
        actions.specs,
        SWEEP.name,
        "Choose a pair of prompts and wait until every cell is measured, then export it again.",
        without_run=True,
        joined=actions.joined,
    ),
    "difference": Export(
        difference.specs,
        DIFFERENCE.name,
        "Open the pane with a pair of prompts, then export it again.",
        without_run=True,
    ),
}
VIEW = View(
    "compare",
    layout,
    register,
    events=(
        EventHandler(CompareId.SENT, "data", actions.adopt),
        EventHandler(CompareId.PICKED, "data", actions.pick),
        EventHandler(CompareId.PAIRED, "data", actions.pair_up),
    ),
    mirrors={name: Mirror(control, (CompareId.SENT,)) for name, control in FORM.items()},
    drawings=(SWEEP, OPTIONS, DIFFERENCE),
    exports=EXPORTS,
)
