"""The layer-by-token heatmap and the chosen cell."""

from __future__ import annotations

from functools import partial
from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, State, ctx, no_update

from dash_app.jobs.job_and_draw import JobParts, Work, draw_run, register_job
from dash_app.state.context import Context, PageId, View, join, read_run
from dash_app.views.heatmap import actions, inspector
from dash_app.views.heatmap.layout import LensId, layout

#: The parts of the selection that decide what is computed and drawn.
CHOSEN = (PageId.CELL, PageId.LENS, PageId.COLOUR, PageId.WINDOW)
JOB = JobParts(LensId.LAST, LensId.PROGRESS, LensId.READY, LensId.STOP)


def register(app: Dash, context: Context) -> None:
    """Draw what the memo has at once, and compute the rest; ``heatmap.js`` handles clicks."""
    _register_job(app, context)
    _register_drawing(app, context)
    draw_run(
        app,
        [Output(LensId.ADDS, "children")],
        partial(inspector.promoted_section, context.service),
        parts=(PageId.CELL, PageId.ADDS, PageId.PINS),
    )
    browser: Any = app.clientside_callback  # Dash has no types for it
    browser(
        ClientsideFunction("stratascope", "reportFindText"),
        Input(LensId.FIND, "value"),
        prevent_initial_call=True,
    )
    browser(
        ClientsideFunction("stratascope", "showFindText"),
        Input(PageId.WINDOW, "data"),
        Input(PageId.QUERY, "data"),
    )


def _register_drawing(app: Dash, context: Context) -> None:
    @app.callback(
        Output(LensId.GRAPH, "figure"),
        Output(LensId.OPTIONS, "children"),
        Output(LensId.STATE, "children"),
        Output(LensId.INSPECTOR, "children"),
        Output(LensId.DRAWN, "data"),
        Output(LensId.WANTED, "data"),
        inputs={
            "data": Input(PageId.RUN, "data"),
            "parts": [Input(part, "data") for part in (*CHOSEN, PageId.PINS)],
            "theme": Input(PageId.SCHEME, "data"),
            "ready": Input(LensId.READY, "data"),
            "drawn": State(LensId.DRAWN, "data"),
            "wanted": State(LensId.WANTED, "data"),
        },
        prevent_initial_call=True,
    )
    def draw(data: Any, parts: Any, theme: Any, ready: Any, drawn: Any, wanted: Any) -> Any:
        run = read_run(data)
        if run is None:
            return no_update
        sources = {str(item["prop_id"]).rpartition(".")[0] for item in ctx.triggered}
        news = ready if sources == {LensId.READY} else None
        *shown, missing = actions.draw(context.service, run, join(*parts), theme, drawn, news)
        return *shown, missing if _starts_job(sources, missing, wanted) else no_update


def _starts_job(sources: set[str], missing: Any, wanted: Any) -> bool:
    """Whether to request a job: after a change that needs one, or whose answer was dropped.

    A pin or the theme does not restart a job that was stopped.
    """
    if sources & {PageId.RUN, *CHOSEN}:
        return (missing, wanted) != (None, None)
    return missing not in (None, wanted)


def _register_job(app: Dash, context: Context) -> None:
    def prepare(wanted: Any, resume: Any, data: Any, parts: Any) -> Work | None:
        run = read_run(data)
        if run is None or wanted is None:
            return None
        selection = join(*parts)
        return partial(actions.compute, context.service, run, selection, hand_over=JOB.hand_over)

    inputs = {
        "wanted": Input(LensId.WANTED, "data"),
        "resume": Input(LensId.RESUME, "n_clicks"),
        "data": State(PageId.RUN, "data"),
        "parts": [State(part, "data") for part in CHOSEN],
    }
    register_job(app, context, JOB, inputs, prepare)


VIEW = View("lens", layout, register)
