"""The side sheet that changes the run: its forms, and what their buttons do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dash_bootstrap_components as dbc
from dash import dcc, html
from dash.development.base_component import Component

from analysis.errors import SpecError
from analysis.tracing.edits import to_text
from analysis.tracing.interventions import MAX_EDITS, Inject, PatchPrompt, RunEdit, SteerTokens
from analysis.tracing.options import INJECTION_MODES
from dash_app.errors import explain
from dash_app.page.panel import button, field, radio
from dash_app.page.panes import side_sheet
from dash_app.state.context import Context, Service, result_of
from dash_app.state.selection import RunRef, Selection, applied, resolve
from dash_app.views.edits.panel import EditId, problem_id

HELP = (
    "An edit changes the forward pass over the same tokens. All panels then show the edited run,"
    " until its card below the prompt is removed. The link contains the edits."
)
TOKENS = (
    "The state is the chosen cell's. Type a token with its leading space, because ' London' and"
    " 'London' are two tokens."
)
#: Largest strength on the slider.
STRONGEST = 40


def layout(_context: Context) -> dict[str, Any]:
    """The place of the cards, and the side sheet."""
    where = radio(EditId.WHERE, {"here": "This position", "all": "All positions"})
    body = [
        dcc.Store(id=EditId.NEW),
        html.P(HELP, className="prompt-hint"),
        html.H3("Set to zero or mean", className="sheet-group"),
        html.Div(id=EditId.HERE),
        html.H3("Change the state", className="sheet-group"),
        html.P(TOKENS, className="prompt-hint"),
        where,
        _inject(),
        _patch(),
        _steer(),
    ]
    sheet = side_sheet("sheet-change", "Change this", body)
    return {"edits": html.Div(id=EditId.CARDS), "change": sheet}


def _text(name: str, placeholder: str) -> Component:
    made: Component = dbc.Input(
        id=name, type="text", placeholder=placeholder, size="sm", autocomplete="off"
    )
    return made


def _form(title: str, form: str, fields: list[Component]) -> Component:
    return html.Section(
        [
            html.H4(title, className="promoted-title"),
            *fields,
            button("Apply", form, size="sm"),
            html.Div(id=problem_id(form), className="small text-danger-emphasis", role="alert"),
        ],
        className="border-top pt-2 mt-2",
    )


def _inject() -> Component:
    modes = {choice.name: choice.label for choice in INJECTION_MODES.values()}
    fields = [
        field("Token", _text(EditId.INJECTED, " London")),
        radio(EditId.MODE, modes),
    ]
    return _form("Put another token here", EditId.INJECT, fields)


def _patch() -> Component:
    number: Component = dbc.Input(
        id=EditId.SOURCE, type="number", step=1, size="sm", placeholder="its last token"
    )
    fields = [
        field("Other prompt", _text(EditId.PROMPT, "The capital of England is")),
        field("Position in it", number),
    ]
    return _form("Patch from another prompt", EditId.PATCH, fields)


def _steer() -> Component:
    slider: Component = dbc.Input(
        id=EditId.STRENGTH, type="range", min=-STRONGEST, max=STRONGEST, step=0.5, value=10
    )
    fields = [
        field("Towards", _text(EditId.TOWARDS, " London")),
        field("Away from", _text(EditId.AWAY, " Paris")),
        field(f"Strength, −{STRONGEST} to {STRONGEST}", slider),
    ]
    return _form("Steer by the difference of two tokens", EditId.STEER, fields)


#: The fields of each form, by the name of the value.
FIELDS: dict[str, dict[str, str]] = {
    EditId.INJECT: {"token": EditId.INJECTED, "mode": EditId.MODE},
    EditId.PATCH: {"prompt": EditId.PROMPT, "source": EditId.SOURCE},
    EditId.STEER: {
        "towards": EditId.TOWARDS, "away": EditId.AWAY, "strength": EditId.STRENGTH,
    },
}  # fmt: skip


def add(
    service: Service,
    run: RunRef | None,
    selection: Selection,
    form: str,
    values: Mapping[str, Any],
) -> tuple[str, str]:
    """The edit of a form, computed once, so that a value that does not fit is found here.

    Args:
        service: Computes.
        run: The run shown, with the edits so far.
        selection: What is selected.
        form: A key of ``FIELDS``.
        values: The form's values, and "where".

    Returns:
        The short form of the edit, and the problem; one of the two is empty.
    """
    if run is None:
        return "", "There is no run yet. Run a prompt first."
    if len(selection.edits) >= MAX_EDITS:
        return "", f"The run has {MAX_EDITS} edits, the most that are possible. Remove one first."
    try:
        text = to_text(_edit(run, selection, form, values))
        edits = tuple(dict.fromkeys((*applied(selection), text)))
        result_of(service, run.model_copy(update={"edits": edits}))
    except Exception as error:  # noqa: BLE001 - shown in the form
        problem = explain(error)
        return "", f"{problem.message} {problem.hint}"
    return text, ""


def _edit(run: RunRef, selection: Selection, form: str, values: Mapping[str, Any]) -> RunEdit:
    chosen = resolve(selection, run)
    row, pos = chosen.row, chosen.pos if values.get("where") != "all" else None
    if form == EditId.INJECT:
        return Inject(row, pos, _token(values.get("token")), str(values.get("mode") or "replace"))
    if form == EditId.PATCH:
        source = values.get("source")
        prompt = str(values.get("prompt") or "")
        return PatchPrompt(row, pos, prompt, -1 if source in (None, "") else int(source))
    towards, away = (_token(values.get(name)) for name in ("towards", "away"))
    return SteerTokens(row, pos, towards, away, float(values.get("strength") or 0))


def _token(text: Any) -> str:
    typed = str(text or "")
    if not typed.strip():
        raise SpecError("There is no token.", "Type one token; a leading space belongs to it.")
    return typed
