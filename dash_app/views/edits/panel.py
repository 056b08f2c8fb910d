"""The cards of the edits, and what can be changed at the chosen cell."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Any
from urllib.parse import urlencode

from dash import html
from dash.development.base_component import Component

from analysis.tracing.edits import code, describe, parse, to_text
from analysis.tracing.interventions import Ablate, RunEdit
from analysis.tracing.specs import RunResult
from dash_app.errors import explain
from dash_app.page.panel import (
    aria,
    data,
    edit_button,
    options_of,
    problem_notice,
    select_button,
    switch,
)
from dash_app.page.panes import icon_button
from dash_app.page.token_labels import label, row_name
from dash_app.state.context import Service, result_of
from dash_app.state.edited_run import OFF
from dash_app.state.options import VERSIONS
from dash_app.state.selection import RunRef, Selection, resolve

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
