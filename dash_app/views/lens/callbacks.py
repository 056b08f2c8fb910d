"""Wiring of the lens view."""

from __future__ import annotations

from typing import Any

from dash import Dash, Input, Output, State, no_update

from dash_app.components.go import switch
from dash_app.reduce import read_run
from dash_app.shell import Context, Event, PageId
from dash_app.state import join
from dash_app.views.lens import actions
from dash_app.views.lens.ids import LensId
from dash_app.views.lens.layout import COLOURS

EVENTS = (Event(LensId.GRAPH, "clickData", actions.clicked),)


def register(app: Dash, context: Context) -> None:
    """Draw for every run; a move of the selection is drawn by the browser alone."""
    service = context.service

    @app.callback(
        Output(LensId.GRAPH, "figure"),
        Input(PageId.RUN, "data"),
        Input(PageId.COLOUR, "data"),
        Input(PageId.SCHEME, "data"),
        State(PageId.CELL, "data"),
        prevent_initial_call=True,
    )
    def draw(data: Any, colour: Any, theme: Any, cell: Any) -> Any:
        run = read_run(data)
        return no_update if run is None else actions.draw(service, run, join(colour, cell), theme)

    @app.callback(
        Output(LensId.INSPECTOR, "children"),
        Input(PageId.RUN, "data"),
        Input(PageId.CELL, "data"),
        Input(PageId.PINS, "data"),
        prevent_initial_call=True,
    )
    def inspect(data: Any, cell: Any, pins: Any) -> Any:
        run = read_run(data)
        return no_update if run is None else actions.inspect(service, run, join(cell, pins))

    @app.callback(Output(LensId.COLOUR, "children"), Input(PageId.COLOUR, "data"))
    def colours(data: Any) -> Any:
        return switch("colour", COLOURS, join(data).colour, "Colour")
