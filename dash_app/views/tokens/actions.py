"""From a run to its strip of tokens."""

from __future__ import annotations

from dash.development.base_component import Component

from dash_app.errors import explain
from dash_app.page.panel import trouble
from dash_app.state.context import Service, result_of
from dash_app.state.selection import RunRef, Selection, resolve
from dash_app.views.tokens.layout import strip


def show(service: Service, run: RunRef, selection: Selection) -> list[Component]:
    """The strip with the chosen position marked."""
    try:
        return strip(result_of(service, run), resolve(selection, run).pos)
    except Exception as error:  # noqa: BLE001 - said where the strip would be
        return [trouble(explain(error))]
