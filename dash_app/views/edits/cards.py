"""The cards of the edits below the prompt: switched, changed in place and removed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any
from urllib.parse import urlencode

import dash_bootstrap_components as dbc
from dash.development.base_component import Component

from analysis.contract.specs import Token
from analysis.errors import SpecError
from analysis.tracing.edits import HOLD, code, describe, escaped, parse, to_text, unescaped
from analysis.tracing.interventions import (
    COMPONENTS,
    INJECTION_MODES,
    PATTERNS,
    REPLACEMENTS,
    Ablate,
    HoldPatterns,
    KnockOut,
    RunEdit,
)
from analysis.tracing.specs import AnswerSpec
from dash_app.errors import explain
from dash_app.page.panel import (
    Option,
    aria,
    data,
    field,
    options_of,
    problem_notice,
    select_button,
    switch,
    target,
)
from dash_app.page.panes import icon_button
from dash_app.page.thin_layout import html
from dash_app.page.token_labels import label
from dash_app.state.context import Service, result_of, trace_of
from dash_app.state.edited_run import OFF
from dash_app.state.options import SAMPLING, VERSIONS
from dash_app.state.selection import RunRef, Selection, applied

#: The marks of the heatmap, in short and in a sentence.
MARKS = "◆ edited, dotted line: what the edits can change"
LEGEND = (
    "In the heatmap, ◆ marks edited states, and the dotted line encloses the states that they can"
    " change: deeper rows at the same position and, from the next layer on, later positions."
)


#: Most tokens of the answers that are compared.
MOST_TOKENS = 20


@dataclass(frozen=True, slots=True)
class Slot:
    """One part of an edit's short form, as a field of its card.

    Attributes:
        label: What the field is called.
        kind: "number", "text" (a token or prompt, escaped in the short form), "where" (positions),
            "word" (a number or a name), "factor", "part" (a component), or "choice".
        choices: Value and title of each choice.
    """

    label: str
    kind: str = "number"
    choices: tuple[tuple[str, str], ...] = ()


def _titles(table: Any) -> tuple[tuple[str, str], ...]:
    return tuple((choice.name, choice.label) for choice in table.values())


_ROW = Slot("Row (0: the embedding)")
_POSITIONS = Slot("Positions, or “all”", "where")
_LAST = Slot("Position in it (−1: the last)")
_STRENGTH = Slot("Strength", "factor")
#: The parts of each kind's short form, after the name of the kind.
SLOTS: dict[str, tuple[Slot, ...]] = {
    "ablate": (
        Slot("Part", "part"), Slot("Layer"),
        Slot("Number of the head or neuron", "word"), _POSITIONS,
        Slot("Replaced by", "choice", _titles(REPLACEMENTS)),
        Slot("The other prompt", "text"),
        Slot("Position in it, or “same”", "word"),
    ),
    "cut": (
        Slot("Layer"), Slot("Head, or “all”", "word"), Slot("Position that reads"),
        Slot("Position that it does not read"),
    ),
    "inject": (
        _ROW, _POSITIONS, Slot("Token", "text"), Slot("Mode", "choice", _titles(INJECTION_MODES)),
    ),
    "patch": (_ROW, _POSITIONS, Slot("The other prompt", "text"), _LAST),
    "steer": (_ROW, _POSITIONS, Slot("Towards", "text"), Slot("Away from", "text"), _STRENGTH),
    "steer_prompts": (
        _ROW, _POSITIONS, Slot("Towards", "text"), Slot("Away from", "text"), _STRENGTH,
        Slot("Position in the first (−1: the last)"), Slot("Position in the second"),
    ),
    "steer_direction": (_ROW, _POSITIONS, Slot("Saved direction", "text"), _STRENGTH),
}  # fmt: skip
_RESAMPLE = ("all", "", "same")  # what an ablation without another prompt leaves out


def cards(service: Service, run: RunRef, selection: Selection) -> list[Component]:
    """A card for each edit, and which run is shown; nothing without edits."""
    if not selection.edits:
        return []
    held = HOLD in applied(selection)
    tools = [
        html.Span(MARKS, className="prompt-hint", title=LEGEND),
        _switch("Attention patterns", _patterns(held)),
        _switch("Heatmap", switch("version", options_of(VERSIONS), selection.version, "Heatmap")),
        select_button("Remove all", "edits=none", "btn btn-sm btn-outline-secondary"),
    ]
    texts, owned = list(dict.fromkeys(selection.edits)), _components(service, run)
    shown = [
        _card(number, text, owned)
        for number, text in enumerate(texts)
        if text.removeprefix(OFF) != HOLD
    ]
    strip = html.Div(
        [*shown, *tools],
        className="d-flex flex-wrap gap-2 align-items-center mb-1",
        role="group",
        **aria(label="Edits of the run"),
    )
    return [strip, *_problem(service, run)]


def _switch(label: str, buttons: list[Component]) -> Component:
    named = html.Span(label, className="control-label")
    inside = [named, html.Div(buttons, className="segmented")]
    return html.Div(inside, className="d-flex gap-1 align-items-center")


def _patterns(held: bool) -> list[Component]:
    """The switch that holds the attention patterns at the baseline's, or leaves them free."""
    chosen = "held" if held else "free"
    change = {"held": f"with=edits:{HOLD}", "free": f"without=edits:{HOLD}"}
    return [_pattern_button(one, one.value == chosen, change) for one in options_of(PATTERNS)]


def _pattern_button(option: Option, on: bool, change: Mapping[str, str]) -> Component:
    return select_button(
        option.title,
        change[option.value],
        f"btn btn-outline-secondary segment{' is-selected' if on else ''}",
        label=f"Attention patterns: {option.title}",
        pressed=on,
        title=option.help,
    )


def _components(service: Service, run: RunRef) -> list[dict[str, str]]:
    """The components that the model has, as options."""
    info = result_of(service, run.baseline).info
    own = {f"{part}_output" for part in info.parts} | {"neuron"}
    own |= {"head_output"} if info.heads and info.split_heads else set()
    return [{"value": name, "label": title} for name, title in COMPONENTS.items() if name in own]


def _problem(service: Service, run: RunRef) -> list[Component]:
    """Why the edits can't be applied; nothing if they can."""
    try:
        result_of(service, run)
    except Exception as error:  # noqa: BLE001 - shown below the cards
        return [problem_notice(explain(error))]
    return []


def _card(number: int, text: str, owned: list[dict[str, str]]) -> Component:
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
            _form(number, text, sentence, owned),
            icon_button("x-lg", f"Remove: {sentence}", remove),
        ],
        className="border rounded px-2 d-flex gap-2 align-items-center",
    )


def parts_of(text: str) -> tuple[str, list[str]]:
    """The kind of a short form, and its other parts; an ablation has all seven."""
    kind, *parts = text.split(":")
    missing = len(SLOTS[kind]) - len(parts)
    return kind, [*parts, *_RESAMPLE[len(_RESAMPLE) - missing :]] if missing else parts


def place_of(edit: RunEdit) -> str:
    """What a button selects that leads to the place of an edit: its cell, and its head."""
    if isinstance(edit, HoldPatterns):
        return ""
    written = isinstance(edit, Ablate | KnockOut)
    row = edit.layer + 1 if isinstance(edit, Ablate | KnockOut) else edit.row
    where = edit.query if isinstance(edit, KnockOut) else edit.pos
    pos = where[0] if isinstance(where, tuple) else where
    chosen = {"row": row, "pos": pos, "layer": max(row - 1, 0)}
    if isinstance(edit, Ablate | KnockOut) and edit.head is not None:
        chosen["heads"] = edit.head
    least = 1 if written else 0  # negative numbers count from the end
    if row < least:
        return ""
    return target(**{name: one for name, one in chosen.items() if one is not None and one >= 0})


def _form(number: int, text: str, sentence: str, owned: list[dict[str, str]]) -> Component:
    """The fields of a card in a menu that opens below it."""
    kind, parts = parts_of(text.removeprefix(OFF))
    fields = [_field(slot, part, owned) for slot, part in zip(SLOTS[kind], parts, strict=True)]
    place = place_of(parse(text.removeprefix(OFF)))
    inside = [
        *fields,
        _menu_button("Apply", data(apply_card=str(number))),
        _menu_button(
            "Another kind…",
            {**data(change=place, replaces=text), "title": f"Replace: {sentence}"},
        ),
        html.Div(className="small text-danger-emphasis", role="alert"),
    ]
    return html.Details(
        [
            html.Summary(
                "Change", className="btn btn-sm btn-outline-secondary",
                **aria(label=f"Change: {sentence}"),
            ),
            html.Div(
                inside,
                className="position-absolute z-3 border rounded shadow p-2 d-grid gap-1",
                style={"width": "24rem", "background": "var(--surface)"},
                role="group",
                **aria(label=f"Change: {sentence}"),
            ),
        ],
        className="menu border-0 position-relative",
    )  # fmt: skip


def _menu_button(text: str, more: Mapping[str, Any]) -> Component:
    return html.Button(
        text, type="button", className="btn btn-sm btn-outline-secondary", **dict(more)
    )


def _field(slot: Slot, part: str, owned: list[dict[str, str]]) -> Component:
    if slot.kind in ("choice", "part"):
        options = [{"value": value, "label": title} for value, title in slot.choices] or owned
        return field(slot.label, dbc.Select(options=options, value=part, size="sm"))
    number = {"type": "number", "step": 1 if slot.kind == "number" else "any"}
    more = number if slot.kind in ("number", "factor") else {"type": "text"}
    value = unescaped(part) if slot.kind == "text" else part.replace("+", ", ")
    made = dbc.Input(value=value, size="sm", autocomplete="off", **more)
    return field(slot.label, made)


def changed(text: str, values: Sequence[Any]) -> str:
    """The short form of a card's edit with the values of its fields.

    Args:
        text: The edit's short form before.
        values: The values of ``SLOTS``, in order.

    Raises:
        SpecError: If a value is not valid, with the name of its field.
    """
    kind, parts = parts_of(text)
    if len(values) != len(SLOTS[kind]):
        raise SpecError("The card has other fields now.", "Reload the page.")
    new = [
        _part(slot, value, part)
        for slot, value, part in zip(SLOTS[kind], values, parts, strict=True)
    ]
    if kind == "ablate" and new[4] != "resample":
        new = new[:5]
    if kind == "ablate" and new[0] not in ("head_output", "neuron"):
        new[2] = "all"
    return to_text(parse(":".join([kind, *new])))


def _part(slot: Slot, value: Any, before: str) -> str:
    """A field's value as a part of the short form; the part as it was if nothing was typed."""
    typed = "" if value is None else str(value)
    if slot.kind == "text":
        return before if typed == unescaped(before) else escaped(typed)
    typed = typed.strip()
    patterns = {
        "number": (r"-?\d{1,9}", "a whole number"),
        "factor": (r"-?[0-9.e+-]{1,20}", "a number"),
        "word": (r"all|same|-?\d{1,9}", "a whole number or the word"),
        "where": (r"all|-?\d{1,9}([\s,+]+-?\d{1,9})*", "“all”, or whole numbers with commas"),
    }
    pattern, wanted = patterns.get(slot.kind, (r"\w+", "one of the list"))
    if not re.fullmatch(pattern, typed):
        raise SpecError(f"“{slot.label}” can't be '{typed[:40]}'.", f"Type {wanted}.")
    return re.sub(r"[\s,+]+", "+", typed) if slot.kind == "where" else typed


def change_card(
    service: Service, run: RunRef | None, selection: Selection, number: int, values: Sequence[Any]
) -> tuple[str, str, str]:
    """The edit of a card with new values, computed once, so that a wrong value is found here.

    Args:
        service: Computes.
        run: The run shown.
        selection: What is selected.
        number: Which of its edits.
        values: The values of the card's fields.

    Returns:
        The short form before and after, and the problem; the form after is empty if there is one.
    """
    texts = list(dict.fromkeys(selection.edits))
    if run is None or number >= len(texts):
        return "", "", "This edit has gone. Reload the page."
    old = texts[number]
    try:
        new = changed(old.removeprefix(OFF), values)
        others = [text for text in applied(selection) if text != old.removeprefix(OFF)]
        edits = tuple(dict.fromkeys((*others, new)))
        result_of(service, run.model_copy(update={"edits": edits}))
    except Exception as error:  # noqa: BLE001 - shown in the card
        problem = explain(error)
        return old, "", f"{problem.message} {problem.hint}"
    return old, (OFF if old.startswith(OFF) else "") + new, ""


def answers(service: Service, run: RunRef, _selection: Selection) -> list[Component]:
    """The answers without and with the edits, from the first token at which they part."""
    if not run.edits or not run.new or run.branch or run.sampling != SAMPLING.default:
        return []  # a drawn or chosen token is not the model's own
    plain = result_of(service, run.baseline).tokens[run.prompt_length :][:MOST_TOKENS]
    spec = AnswerSpec(min(run.new, MOST_TOKENS), run.prompt_length)
    try:
        edited = service.ask(trace_of(run), spec).tokens
    except Exception as error:  # noqa: BLE001 - shown in place of the answers
        return [problem_notice(explain(error))]
    pairs = zip(plain, edited, strict=False)
    same = sum(1 for _ in takewhile(lambda pair: pair[0].id == pair[1].id, pairs))
    if same == len(plain) == len(edited):
        return [_line(html.Span("Answer, the same with the edits: "), *_spoken(edited))]
    before, after = (tokens[same:] for tokens in (plain, edited))
    start = _spoken(plain[:same])
    titles = (
        html.Span("Answer without the edits: "),
        html.Span("With the edits: ", className="ms-3"),
    )
    shown = (titles[0], *start, *_spoken(before, on=True), titles[1], *start)
    return [_line(*shown, *_spoken(after, on=True))]


def _line(*inside: Component) -> Component:
    return html.P(list(inside), className="small mb-1")


def _spoken(tokens: Sequence[Token], *, on: bool = False) -> list[Component]:
    """Tokens as text; those after which the answers part stand out."""
    text = html.Span(
        "".join(map(label, tokens)) or "∅", className="mono" + (" fw-bold" if on else " muted")
    )
    return [text] if tokens or on else []
