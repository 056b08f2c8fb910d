"""The cards of the edits, the side sheet that changes the run, and what its buttons do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any
from urllib.parse import urlencode

import dash_bootstrap_components as dbc
from dash import dcc, html
from dash.development.base_component import Component

from analysis.errors import SpecError
from analysis.tracing.edits import code, describe, parse, to_text
from analysis.tracing.interventions import (
    INJECTION_MODES,
    MAX_EDITS,
    Ablate,
    Inject,
    PatchPrompt,
    RunEdit,
    SteerTokens,
)
from analysis.tracing.specs import RunResult
from dash_app.errors import explain
from dash_app.page.panel import (
    aria,
    button,
    data,
    edit_button,
    field,
    options_of,
    problem_notice,
    radio,
    select_button,
    switch,
)
from dash_app.page.panes import icon_button, side_sheet
from dash_app.page.token_labels import label, row_name
from dash_app.state.context import Context, Service, result_of
from dash_app.state.edited_run import OFF
from dash_app.state.options import VERSIONS
from dash_app.state.selection import RunRef, Selection, applied, resolve

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
#: Most chosen heads that are offered.
HEADS = 8
NAMES = {
    "attention": "Attention",
    "mlp": "MLP",
    "ssm": "Mixer",
    "per_layer_embedding": "Per-layer embedding",
}


class EditId(StrEnum):
    """Ids of this view's components."""

    CARDS = "edits-cards"
    HERE = "edits-here"
    NEW = "edits-new"
    WHERE = "edits-where"
    INJECT = "edits-inject"
    INJECTED = "edits-inject-token"
    MODE = "edits-inject-mode"
    PATCH = "edits-patch"
    PROMPT = "edits-patch-prompt"
    SOURCE = "edits-patch-position"
    STEER = "edits-steer"
    TOWARDS = "edits-steer-towards"
    AWAY = "edits-steer-away"
    STRENGTH = "edits-steer-strength"


def problem_id(form: str) -> str:
    """The id of a form's message."""
    return f"{form}-problem"


def cards(service: Service, run: RunRef, selection: Selection) -> list[Component]:
    """A card for each edit, and which run the heatmap shows; nothing without edits."""
    if not selection.edits:
        return []
    tools = [
        html.Span("Heatmap", className="control-label"),
        html.Div(
            switch("version", options_of(VERSIONS), selection.version, "Heatmap"),
            className="segmented",
        ),
        select_button("Remove all", "edits=none", "btn btn-sm btn-outline-secondary"),
    ]
    shown = [_card(text) for text in dict.fromkeys(selection.edits)]
    strip = html.Div(
        [*shown, *tools],
        className="d-flex flex-wrap gap-2 align-items-center mb-1",
        role="group",
        **aria(label="Edits of the run"),
    )
    return [strip, *_problem(service, run)]


def _problem(service: Service, run: RunRef) -> list[Component]:
    """Why the edits can't be applied; nothing if they can."""
    try:
        result_of(service, run)
    except Exception as error:  # noqa: BLE001 - shown below the cards
        return [problem_notice(explain(error))]
    return []


def _card(text: str) -> Component:
    edit, off = parse(text.removeprefix(OFF)), text.startswith(OFF)
    sentence = describe(edit)
    muted = " text-decoration-line-through muted" if off else ""
    turn = urlencode({"switch": f"edits:{text}"}, safe=":,")
    on = select_button(
        "Off" if off else "On",
        turn,
        f"btn btn-sm btn-{'outline-secondary' if off else 'primary'}",
        label=f"{'Off' if off else 'On'}: {sentence}",
        pressed=not off,
    )
    remove = data(go=urlencode({"without": f"edits:{text}"}, safe=":,"))
    return html.Div(
        [
            html.Span(sentence, className=f"small{muted}", title=f"Python: {code(edit)}"),
            on,
            icon_button("x-lg", f"Remove: {sentence}", remove),
        ],
        className="border rounded px-2 d-flex gap-2 align-items-center",
    )


def here(service: Service, run: RunRef, selection: Selection) -> list[Component]:
    """What can be set to zero or to its mean at the chosen cell."""
    chosen, result = resolve(selection, run), result_of(service, run.baseline)
    token = label(result.tokens[chosen.pos])
    place = f"Chosen: {row_name(chosen.row)}, position {chosen.pos} ({token})."
    groups = [
        _group(title, edit, chosen.pos, run.edits)
        for title, edit in _offered(run, result, selection)
    ]
    hint = (
        "Choose a head in the attention panel to change it. “Here” is the chosen position,"
        " “everywhere” all positions."
    )
    if not groups:
        hint = "The embedding has no attention and no MLP. Choose a higher row to change them."
    return [html.P(place), *groups, html.P(hint, className="prompt-hint")]


def _offered(
    run: RunRef, result: RunResult, selection: Selection
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, what to ablate) of each component that can be changed at the chosen cell."""
    chosen = resolve(selection, run)
    if chosen.row:
        for part in result.info.parts:
            if part not in NAMES:
                continue  # a block that can't be split can't be ablated
            name = f"{NAMES[part]} of layer {chosen.row - 1}"
            yield name, {"component": f"{part}_output", "layer": chosen.row - 1}
    if result.info.heads and result.info.split_heads:
        for head in chosen.heads[:HEADS]:
            name = f"Head {head} of layer {chosen.layer}"
            yield name, {"component": "head_output", "layer": chosen.layer, "head": head}


def _group(title: str, what: dict[str, Any], pos: int, edits: tuple[str, ...]) -> Component:
    values = (("zero", "Zero"), ("mean", "Mean"))
    places = ((pos, "here"), (None, "everywhere"))
    buttons = [
        _button(f"{name} {place}", Ablate(**what, pos=where, value=value), edits)
        for value, name in values
        for where, place in places
    ]
    return html.Div(
        [html.Span(title, className="control-label"), *buttons],
        className="d-flex flex-wrap gap-1 mb-2",
        role="group",
        **aria(label=title),
    )


def _button(text: str, edit: RunEdit, edits: tuple[str, ...]) -> Component:
    return edit_button(text, to_text(edit), edits, describe(edit))


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
