"""Edits of the run: their cards below the prompt, and the side sheet that makes them."""

from __future__ import annotations

from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, State, ctx, set_props
from dash.exceptions import PreventUpdate

from analysis.tracing import directions
from dash_app.state.context import (
    PARTS,
    Context,
    Drawing,
    PageId,
    View,
    join,
    read_run,
)
from dash_app.views.edits import cards, panel
from dash_app.views.edits.panel import EditId

CARDS = Drawing("edits", (Output(EditId.CARDS, "children"),), cards.cards, parts=(PageId.EDITS,))
ANSWER = Drawing("edits-answer", (Output(EditId.ANSWER, "children"),), cards.answers)
HERE = Drawing(
    "edits-here",
    (Output(EditId.HERE, "children"),),
    panel.here,
    parts=(PageId.CELL, PageId.FOCUS, PageId.LINK, PageId.EDITS),
    files=directions.names,
)


def register(app: Dash, context: Context) -> None:
    """Compute the edit of a form, and mark the panels that show the edited run."""
    fields = {
        name: one for form_fields in panel.FIELDS.values() for name, one in form_fields.items()
    }

    @app.callback(
        output={name: Output(panel.problem_id(name), "children") for name in panel.FIELDS},
        inputs={
            "presses": {name: Input(name, "n_clicks") for name in panel.FIELDS},
            "values": {name: State(one, "value") for name, one in fields.items()},
            "where": State(EditId.WHERE, "value"),
            "run": State(PageId.RUN, "data"),
            "stored": [State(part, "data") for part in PARTS],
        },
        prevent_initial_call=True,
    )
    def change(
        presses: dict[str, Any], values: dict[str, Any], where: Any, run: Any, stored: list[Any]
    ) -> dict[str, str]:
        pressed = str(ctx.triggered_id)
        given = {**values, "where": where}
        edit, problem = panel.add(context.service, read_run(run), join(*stored), pressed, given)
        if edit:
            set_props(EditId.NEW, {"data": {"edit": edit, "press": presses.get(pressed)}})
        return {name: problem if name == pressed else "" for name in panel.FIELDS}

    _register_cards(app, context)
    _register_browser(app)


def _register_browser(app: Dash) -> None:
    """Mark edited panels, name the fields of steering, and report edits."""
    # The browser reports the edit, because it repeats a report whose answer Dash drops.
    browser: Any = app.clientside_callback  # Dash has no types for it
    browser(
        ClientsideFunction("stratascope", "showEdited"),
        Input(PageId.RUN, "data"),
        Input(PageId.EDITS, "data"),
    )
    browser(
        ClientsideFunction("stratascope", "steerBy"),
        Output(EditId.TOWARDS, "placeholder"),
        Output(EditId.TOWARDS, "list"),
        Output(EditId.AWAY, "placeholder"),
        Output(EditId.AWAY, "disabled"),
        Input(EditId.BY, "value"),
        prevent_initial_call=True,
    )
    browser(
        ClientsideFunction("stratascope", "reportEdit"),
        Input(EditId.NEW, "data"),
        prevent_initial_call=True,
    )


def _register_cards(app: Dash, context: Context) -> None:
    """Compute the edit of a card with the values that were typed; the browser collects them."""

    @app.callback(
        Output(EditId.REFUSED, "data"),
        Input(EditId.TYPED, "data"),
        State(PageId.RUN, "data"),
        *(State(part, "data") for part in PARTS),
        prevent_initial_call=True,
    )
    def change_card(typed: Any, run: Any, *stored: Any) -> dict[str, Any]:
        if not (isinstance(typed, dict) and isinstance(typed.get("values"), list)):
            raise PreventUpdate
        card, press = typed.get("card"), typed.get("press")
        if not isinstance(card, int) or card < 0:
            raise PreventUpdate
        old, new, problem = cards.change_card(
            context.service, read_run(run), join(*stored), card, typed["values"]
        )
        if new:
            set_props(EditId.NEW, {"data": {"edit": new, "old": old, "press": press}})
        return {"card": card, "problem": problem, "press": press}

    browser: Any = app.clientside_callback  # Dash has no types for it
    browser(
        ClientsideFunction("stratascope", "showRefused"),
        Input(EditId.REFUSED, "data"),
        prevent_initial_call=True,
    )


VIEW = View(
    "edits",
    panel.layout,
    register,
    drawings=(CARDS, ANSWER, HERE),
)
