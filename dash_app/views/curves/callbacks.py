"""Wiring of the curves view."""

from __future__ import annotations

from typing import Any

from dash import Dash, Input, Output, no_update

from dash_app.components.go import switch
from dash_app.reduce import read_run
from dash_app.shell import Context, Event, PageId
from dash_app.state import join
from dash_app.views.curves import actions
from dash_app.views.curves.ids import CurvesId
from dash_app.views.curves.layout import QUANTITIES

EVENTS = (Event(CurvesId.GRAPH, "clickData", actions.clicked),)


def register(app: Dash, context: Context) -> None:
    """Draw for every run, position and set of pins; a change of row is the browser's alone."""

    @app.callback(
        Output(CurvesId.GRAPH, "figure"),
        Output(CurvesId.PINS, "children"),
        Output(CurvesId.SUBTITLE, "children"),
        Output(CurvesId.FACTS, "children"),
        Input(PageId.RUN, "data"),
        Input(PageId.CELL, "data"),
        Input(PageId.PINS, "data"),
        Input(PageId.CURVE, "data"),
        Input(PageId.SCHEME, "data"),
        prevent_initial_call=True,
    )
    def draw(data: Any, cell: Any, pins: Any, curve: Any, theme: Any) -> Any:
        run = read_run(data)
        if run is None:
            return no_update
        return actions.draw(context.service, run, join(cell, pins, curve), theme)

    @app.callback(Output(CurvesId.QUANTITY, "children"), Input(PageId.CURVE, "data"))
    def quantities(data: Any) -> Any:
        return switch("curve", QUANTITIES, join(data).curve, "Curves")
