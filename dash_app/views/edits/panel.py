"""The side sheet that changes the run, and what its buttons do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

import dash_bootstrap_components as dbc
from dash import dcc
from dash.development.base_component import Component

from analysis.errors import SpecError
from analysis.tracing.directions import of_fingerprint
from analysis.tracing.edits import describe, to_text
from analysis.tracing.interventions import (
    ABLATION_VALUES,
    INJECTION_MODES,
    MAX_EDITS,
    Ablate,
    Inject,
    KnockOut,
    PatchPrompt,
    RunEdit,
    SteerDirection,
    SteerPrompts,
    SteerTokens,
)
from analysis.tracing.specs import RunResult
from dash_app.errors import explain
from dash_app.page.panel import (
    aria,
    button,
    edit_button,
    field,
    radio,
    select_field,
)
from dash_app.page.panes import side_sheet
from dash_app.page.thin_layout import html
from dash_app.page.token_labels import label, row_name
from dash_app.state.context import Context, Service, result_of
from dash_app.state.selection import Chosen, RunRef, Selection, applied, resolve

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
#: What another prompt can replace: the state, or a part of it.
PATCHED = {
    "state": "State", "attention_output": "Attention output", "mlp_output": "MLP output",
    "head_output": "The chosen head",
}  # fmt: skip
#: By what the state is steered.
STEERED_BY = {
    "tokens": "Of two tokens", "prompts": "Of two prompts’ states", "direction": "Saved direction",
}  # fmt: skip
#: The classes of a heading in the sheet.
GROUP = "sheet-group mb-2"
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
    TYPED = "edits-typed"
    REFUSED = "edits-refused"
    WHERE = "edits-where"
    INJECT = "edits-inject"
    INJECTED = "edits-inject-token"
    MODE = "edits-inject-mode"
    PATCH = "edits-patch"
    WHAT = "edits-patch-what"
    PROMPT = "edits-patch-prompt"
    SOURCE = "edits-patch-position"
    NEURON = "edits-neuron"
    NUMBER = "edits-neuron-number"
    VALUE = "edits-neuron-value"
    STEER = "edits-steer"
    TOWARDS = "edits-steer-towards"
    AWAY = "edits-steer-away"
    STRENGTH = "edits-steer-strength"
    BY = "edits-steer-by"
    SAVED = "edits-saved"
    ANSWER = "edits-answer"


def problem_id(form: str) -> str:
    """The id of a form's message."""
    return f"{form}-problem"


def here(service: Service, run: RunRef, selection: Selection) -> list[Component]:
    """What can be cut, or set to zero or to its mean, at the chosen link and cell."""
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
    link = _cut(selection.link, run.edits)
    saved = [
        html.Option(value=one.name, label=one.source)
        for one in of_fingerprint(result.info.fingerprint)
    ]
    names = html.Datalist(saved, id=EditId.SAVED)
    line = html.P(place, className="mb-2")
    return [line, *link, *groups, html.P(hint, className="prompt-hint"), names]


def _cut(link: str, edits: tuple[str, ...]) -> list[Component]:
    """The group of the chosen link, if it is one of attention."""
    kind, *numbers = link.split(":")
    if kind != "attention":
        return []
    layer, source, target, head = map(int, numbers)
    edit = KnockOut(layer, None if head < 0 else head, target, source)
    title = "The chosen link"
    return [_buttons(title, [_button("Cut this link", edit, edits)])]


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
    return _buttons(title, buttons)


def _buttons(title: str, buttons: list[Component]) -> Component:
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
        *(dcc.Store(id=name) for name in (EditId.NEW, EditId.TYPED, EditId.REFUSED)),
        html.P(HELP, className="prompt-hint"),
        html.H3("Set to zero or mean", className=f"{GROUP} mt-4"),
        html.Div(id=EditId.HERE),
        html.H3("Change the state", className=f"{GROUP} mt-4"),
        html.P(TOKENS, className="prompt-hint mb-2"),
        where,
        _inject(),
        _patch(),
        _steer(),
        _neuron(),
    ]
    sheet = side_sheet("sheet-change", "Change this", body)
    shown = html.Div([html.Div(id=EditId.CARDS), html.Div(id=EditId.ANSWER, **aria(live="polite"))])
    return {"edits": shown, "change": sheet}


def _text(name: str, placeholder: str) -> Component:
    made: Component = dbc.Input(
        id=name, type="text", placeholder=placeholder, size="sm", autocomplete="off"
    )
    return made


def _form(title: str, form: str, fields: list[Component]) -> Component:
    return html.Section(
        [
            html.H4(title, className="promoted-title mb-2"),
            *fields,
            button("Apply", form, size="sm", class_name="d-block mt-2"),
            html.Div(id=problem_id(form), className="small text-danger-emphasis", role="alert"),
        ],
        className="border-top pt-3 mt-3",
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
    what = [{"value": value, "label": title} for value, title in PATCHED.items()]
    fields = [
        field("What", select_field(EditId.WHAT, what, "state", "10rem")),
        field("Other prompt", _text(EditId.PROMPT, "The capital of England is")),
        field("Position in it", number),
    ]
    return _form("Patch from another prompt", EditId.PATCH, fields)


def _steer() -> Component:
    fields = [
        radio(EditId.BY, STEERED_BY),
        field("Towards", _text(EditId.TOWARDS, " London")),
        field("Away from", _text(EditId.AWAY, " Paris")),
        field("Strength: 10", _slider(EditId.STRENGTH, 10)),
    ]
    return _form("Steer by a difference, or by a direction", EditId.STEER, fields)


def _slider(name: str, value: float) -> Component:
    made: Component = dbc.Input(
        id=name, type="range", min=-STRONGEST, max=STRONGEST, step=0.5, value=value
    )
    return made


def _neuron() -> Component:
    number: Component = dbc.Input(id=EditId.NUMBER, type="number", step=1, min=0, size="sm")
    values = {choice.name: choice.label for choice in ABLATION_VALUES.values()}
    fields = [
        field("Number of the neuron", number),
        radio(EditId.VALUE, values),
    ]
    return _form("Set a neuron of the MLP below the chosen state", EditId.NEURON, fields)


#: The fields of each form, by the name of the value.
FIELDS: dict[str, dict[str, str]] = {
    EditId.INJECT: {"token": EditId.INJECTED, "mode": EditId.MODE},
    EditId.PATCH: {"what": EditId.WHAT, "prompt": EditId.PROMPT, "source": EditId.SOURCE},
    EditId.STEER: {
        "towards": EditId.TOWARDS, "away": EditId.AWAY, "strength": EditId.STRENGTH,
        "by": EditId.BY,
    },
    EditId.NEURON: {"number": EditId.NUMBER, "value": EditId.VALUE},
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
        return _patched(chosen, pos, values)
    if form == EditId.NEURON:
        return _ablation("neuron", chosen, pos, value=str(values.get("value") or "zero"),
                         neuron=_number(values.get("number"), "number of the neuron"))  # fmt: skip
    strength = float(values.get("strength") or 0)
    if values.get("by") == "prompts":
        like, unlike = (str(values.get(name) or "") for name in ("towards", "away"))
        return SteerPrompts(row, pos, like, unlike, strength)
    if values.get("by") == "direction":
        return SteerDirection(row, pos, _direction(values.get("towards")), strength)
    towards, away = (_token(values.get(name)) for name in ("towards", "away"))
    return SteerTokens(row, pos, towards, away, strength)


def _patched(chosen: Chosen, pos: int | None, values: Mapping[str, Any]) -> RunEdit:
    """The state, or one of its parts, from another prompt."""
    prompt, source = str(values.get("prompt") or ""), values.get("source")
    at = None if source in (None, "") else _number(source, "position in it")
    what = str(values.get("what") or "state")
    if what == "state":
        return PatchPrompt(chosen.row, pos, prompt, -1 if at is None else at)
    if at is None and pos is not None:
        at = -1
    more: dict[str, Any] = {"value": "resample", "prompt": prompt, "source_pos": at}
    if what != "head_output":
        return _ablation(what, chosen, pos, **more)
    if len(chosen.heads) != 1:
        raise SpecError("There is no single head.", "Choose one head in the attention panel.")
    return Ablate(what, chosen.layer, chosen.heads[0], pos, **more)


def _ablation(component: str, chosen: Chosen, pos: int | None, **more: Any) -> RunEdit:
    """An ablation in the layer that writes the chosen state."""
    if not chosen.row:
        raise SpecError("The embedding has no layer below it.", "Choose a higher row.")
    return Ablate(component, chosen.row - 1, pos=pos, **more)


def _number(value: Any, name: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise SpecError(f"The {name} is missing.", "Type a whole number.") from error


def _direction(text: Any) -> str:
    typed = str(text or "").strip()
    if not typed:
        raise SpecError(
            "There is no name of a direction.",
            "Save one with 'stratascope direction probe', or with analysis.save_direction.",
        )
    return typed


def _token(text: Any) -> str:
    typed = str(text or "")
    if not typed.strip():
        raise SpecError("There is no token.", "Type one token; a leading space belongs to it.")
    return typed
