"""Wiring of the tasks view."""

from __future__ import annotations

from typing import Any

from dash import Dash, Input, Output, State, no_update

from dash_app.shell import Context, PageId
from dash_app.state import join
from dash_app.views.tasks import actions
from dash_app.views.tasks.ids import TasksId


def register(app: Dash, context: Context) -> None:
    """Run suites in the background; draw their reports."""
    _register_job(app, context)
    _register_drawing(app, context)


def _register_job(app: Dash, context: Context) -> None:
    @app.callback(
        Output(TasksId.READY, "data"),
        Input(TasksId.BUTTON, "n_clicks"),
        State(TasksId.SUITE, "value"),
        State(TasksId.SIZE, "value"),
        State(TasksId.DIGITS, "value"),
        State(PageId.REQUEST, "data"),
        background=True,
        manager=context.manager,
        interval=context.settings.poll_ms,
        progress=[Output(TasksId.FILL, "style"), Output(TasksId.LABEL, "children")],
        progress_default=[{"width": "0%"}, ""],
        running=[
            (Output(TasksId.BUTTON, "disabled"), True, False),
            (Output(TasksId.CANCEL, "disabled"), False, True),
        ],
        cancel=[Input(TasksId.CANCEL, "n_clicks")],
        prevent_initial_call=True,
    )
    def run(
        set_progress: Any, clicks: Any, suite: Any, size: Any, digits: Any, request: Any
    ) -> Any:
        model = join(request).model or context.settings.default_model
        job = context.jobs(set_progress)
        return actions.run(context.service, model, suite, size, digits, job)


def _register_drawing(app: Dash, context: Context) -> None:
    @app.callback(
        Output(TasksId.SUMMARY, "children"),
        Output(TasksId.RESULTS, "hidden"),
        Output(TasksId.BARS, "figure"),
        Output(TasksId.CURVES, "figure"),
        Output(TasksId.DOTS, "figure"),
        Output(TasksId.WRONG, "children"),
        Input(TasksId.READY, "data"),
        Input(PageId.SCHEME, "data"),
        prevent_initial_call=True,
    )
    def show(ready: Any, theme: Any) -> Any:
        if not isinstance(ready, dict):
            return (no_update,) * 6
        shown = actions.show(context.service, ready, theme)
        if shown.bars is None:
            return shown.summary, True, no_update, no_update, no_update, no_update
        return shown.summary, False, shown.bars, shown.curves, shown.dots, shown.wrong
