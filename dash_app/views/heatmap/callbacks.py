"""Wiring of the lens view."""

from __future__ import annotations

from functools import partial
from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, State, ctx, no_update
from dash.exceptions import PreventUpdate

from dash_app.jobs.progress import begun, hand_over, job
from dash_app.state.context import Context, PageId
from dash_app.state.stores import join, read_run
from dash_app.views.heatmap import actions, inspector
from dash_app.views.heatmap.layout import LensId

#: What decides which numbers are computed, and which are drawn.
CHOSEN = (PageId.CELL, PageId.LENS, PageId.COLOUR, PageId.WINDOW)


def register(app: Dash, context: Context) -> None:
    """Show what there is at once, compute the rest; clicks are the browser's (heatmap.js)."""
    _register_job(app, context)
    _register_picture(app, context)
    _register_around(app, context)


def _register_picture(app: Dash, context: Context) -> None:
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
    def show(data: Any, parts: Any, theme: Any, ready: Any, drawn: Any, wanted: Any) -> Any:
        run = read_run(data)
        if run is None:
            return (no_update,) * 6
        sources = {str(item["prop_id"]).rpartition(".")[0] for item in ctx.triggered}
        news = ready if sources == {LensId.READY} else None
        *shown, missing = actions.show(context.service, run, join(*parts), theme, drawn, news)
        return *shown, missing if _asks(sources, missing, wanted) else no_update


def _asks(sources: set[str], missing: Any, wanted: Any) -> bool:
    """Whether a job is asked for: by what decides it, or where the call that would was dropped.

    One that was stopped is not begun anew by a pin or the theme.
    """
    if sources & {PageId.RUN, *CHOSEN}:
        return (missing, wanted) != (None, None)
    return missing not in (None, wanted)


def _register_job(app: Dash, context: Context) -> None:
    @app.callback(
        Output(LensId.LAST, "data"),
        inputs={
            "wanted": Input(LensId.WANTED, "data"),
            "again": Input(LensId.RESUME, "n_clicks"),
            "data": State(PageId.RUN, "data"),
            "parts": [State(part, "data") for part in CHOSEN],
        },
        **job(context, LensId.PROGRESS, LensId.STOP),
    )
    def compute(set_progress: Any, wanted: Any, again: Any, data: Any, parts: Any) -> Any:
        run = read_run(data)
        if run is None or wanted is None:
            raise PreventUpdate
        jobs = context.jobs(begun(set_progress))
        tell = partial(hand_over, LensId.READY)
        tell(actions.compute(context.service, run, join(*parts), jobs, tell))
        return run.attempt


def _register_around(app: Dash, context: Context) -> None:
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

    @app.callback(
        Output(LensId.ADDS, "children"),
        Input(PageId.RUN, "data"),
        Input(PageId.CELL, "data"),
        Input(PageId.ADDS, "data"),
        Input(PageId.PINS, "data"),
        prevent_initial_call=True,
    )
    def adds(data: Any, cell: Any, chosen: Any, pins: Any) -> Any:
        run = read_run(data)
        if run is None:
            return no_update
        return inspector.section(context.service, run, join(cell, chosen, pins))
