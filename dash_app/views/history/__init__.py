"""The history of a user's runs, and collections of views."""

from __future__ import annotations

from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, State, ctx, no_update
from flask import request

from dash_app.state.context import PARTS, Context, PageId, View, join, read_run
from dash_app.views.history import actions
from dash_app.views.history.layout import HistoryId, layout


def register(app: Dash, context: Context) -> None:
    """Record every run, draw both lists, and serve the documents of collections."""
    actions.install(app.server, context.settings)
    _register_recording(app, context)
    _register_adding(app, context)

    @app.callback(
        Output(HistoryId.SUMMARY, "children"),
        Output(HistoryId.LIST, "children"),
        Output(HistoryId.COLLECTIONS, "children"),
        Output(HistoryId.MESSAGE, "children"),
        Input(HistoryId.ACT, "data"),
        Input(HistoryId.SEARCH, "value"),
        prevent_initial_call=True,
    )
    def draw(act: Any, search: Any) -> Any:
        searched = ctx.triggered_id == HistoryId.SEARCH
        return actions.answer(
            context, None if searched else act, search, request.url_root.rstrip("/")
        )


def _register_adding(app: Dash, context: Context) -> None:
    @app.callback(
        Output(HistoryId.TARGET, "options"),
        Output(HistoryId.TARGET, "value"),
        Input(HistoryId.DIALOG, "is_open"),
        prevent_initial_call=True,
    )
    def offer(is_open: Any) -> Any:
        return actions.targets(context) if is_open else (no_update, no_update)

    @app.callback(
        Output(HistoryId.ADDED, "children"),
        Output(HistoryId.ADDED, "is_open"),
        Input(HistoryId.ADD, "data"),
        State(PageId.RUN, "data"),
        *(State(part, "data") for part in PARTS),
        prevent_initial_call=True,
    )
    def add(view: Any, run: Any, *stored: Any) -> Any:
        return actions.add(context, view, join(*stored), read_run(run)), True


def _register_recording(app: Dash, context: Context) -> None:
    housekeeping = actions.Housekeeping(context.settings)

    @app.callback(
        Output(HistoryId.RECORDED, "data"),
        Input(PageId.RUN, "data"),
        prevent_initial_call=True,
    )
    def record(run: Any) -> Any:
        shown = read_run(run)
        if shown is None or not actions.record(context, shown):
            return no_update
        housekeeping.run_daily()
        return shown.attempt

    browser: Any = app.clientside_callback  # Dash has no types for it
    browser(ClientsideFunction("stratascope", "historyGrew"), Input(HistoryId.RECORDED, "data"))


VIEW = View("history", layout, register)
