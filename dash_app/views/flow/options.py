"""The controls of the flow view, made from the tables of options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dash import html
from dash.development.base_component import Component

from analysis.contract.choices import Choices, Situation
from analysis.contract.specs import ModelInfo
from analysis.flow_graph.options import DIRECTIONS, FLOW_METHODS, START_TOKEN
from dash_app.page.logit_tokens import logit_controls
from dash_app.page.panel import Option, control, options_of, segmented, switch
from dash_app.state.options import EFFECTS, MAIN_PATHS, ROOTS, SCALES, SINKS, SPLITS
from dash_app.state.selection import Selection

#: Preset values of each rule.
PRESETS = {
    "sources": (1, 2, 3, 4, 5, 6, 7, 8),
    "mass": (50, 60, 70, 80, 90, 95),
    "least": (0.5, 1.0, 2.0, 5.0, 10.0),
}


def options(
    selection: Selection,
    *,
    answer: bool = False,
    grouped: bool = False,
    tokens: Sequence[Option] = (),
    foils: Sequence[Option] = (),
    model: ModelInfo | None = None,
) -> list[Component]:
    """All controls that have an effect with the selected method."""
    method = FLOW_METHODS[selection.method]
    methods = options_of(FLOW_METHODS, Situation(model))
    shares = control("Links by", _switched("Links by", "method", methods, selection))
    how: list[Component] = [shares, html.P(method.summary, className="control-help")]
    shown = _rule(selection)
    if method.signed:
        what = logit_controls(selection, tokens, foils)
        how += _effects(selection)
    else:
        what = _what(selection, answer)
        attends = model is None or model.heads > 0
        how += _how(selection, grouped) if attends else []
        shown.append(_control("Scale", "scale", SCALES, selection))
    return [_group("What", what), _group("How", how), _group("Shown", shown)]


def _group(name: str, controls: Sequence[Component]) -> Component:
    return html.Section([html.H3(name, className="sheet-group"), *controls], className="mb-3")


def _rule(selection: Selection) -> list[Component]:
    name = selection.rule
    value = getattr(selection, name)
    unit = "" if name == "sources" else " %"
    help_text = MAIN_PATHS[name].help
    presets = [Option(str(one), f"{one:g}{unit}") for one in sorted({*PRESETS[name], value})]
    return [
        _control("Main paths", "rule", MAIN_PATHS, selection),
        html.Div(segmented(switch(name, presets, str(value), help_text)), title=help_text),
    ]


def _what(selection: Selection, answer: bool) -> list[Component]:
    parts = [_control("Direction", "direction", DIRECTIONS, selection)]
    if answer and selection.direction == "down":
        parts.append(_control("Into", "root", ROOTS, selection))
    return parts


def _how(selection: Selection, grouped: bool) -> list[Component]:
    splits = [one for one in options_of(SPLITS) if grouped or one.value != "group"]
    parts = [
        _control("Start token", "start", START_TOKEN, selection),
        _control("Sinks", "sinks", SINKS, selection),
    ]
    if FLOW_METHODS[selection.method].per_head:
        heads = _switched("Heads", "split", splits, selection)
        parts.append(html.Div(control("Heads", heads), title=SPLITS.help))
    return parts


def _effects(selection: Selection) -> list[Component]:
    """How the effects are taken; nothing for the method signed."""
    if selection.method != "effect":
        return []
    splits = [one for one in options_of(SPLITS) if one.value != "group"]
    heads = _switched("Heads", "split", splits, selection)
    return [
        _control("Effects", "effects", EFFECTS, selection),
        html.Div(control("Heads", heads), title=SPLITS.help),
    ]


def _control(text: str, name: str, table: Choices[Any], selection: Selection) -> Component:
    """A labelled switch for a field of the selection that has a table of choices."""
    buttons = _switched(text, name, options_of(table), selection)
    return html.Div(control(text, buttons), title=table.help)


def _switched(text: str, name: str, options: Sequence[Option], selection: Selection) -> Component:
    return segmented(switch(name, options, getattr(selection, name), text))
