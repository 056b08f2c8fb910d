"""The flow's options: methods with formula and source, and the controls that select."""

from __future__ import annotations

from typing import NamedTuple

from dash import html
from dash.development.base_component import Component

from dash_app.page.controls import go, switch, target
from dash_app.page.panel import control
from dash_app.state.selection import Selection


class Method(NamedTuple):
    """One method: its value in the selection, its name, and one line of help."""

    value: str
    title: str
    help: str


METHODS = (
    Method(
        "proximity",
        "Proximity",
        "Part z of the whole y: max(‖y‖₁ − ‖z − y‖₁, 0), normalised over all parts"
        " (information flow routes; Ferrando and Voita, 2024).",
    ),
    Method("norm", "Norm", "‖z‖₂ over the sum of all parts' norms; blind to direction."),
    Method(
        "residual_norm",
        "Residual norm",
        "Two parts, ‖x‖ / (‖x‖ + ‖a‖); attention's part divided by the mean pattern of the heads"
        " (InTraVisTo).",
    ),
    Method(
        "kl",
        "KL",
        "1 / KL(p(whole) ‖ p(part)) on vocabulary distributions, normalised over residual,"
        " attention and MLP; attention's part divided by the pattern.",
    ),
    Method(
        "hidden_kl",
        "Hidden KL",
        "The same on a softmax over hidden coordinates, as InTraVisTo has it.",
    ),
    Method(
        "attention",
        "Attention",
        "Residual and attention split by L2 norm; attention's part by pattern / heads.",
    ),
    Method(
        "rollout",
        "Rollout",
        "½ · mean of the heads' patterns + ½ · identity in each layer; MLPs carry none"
        " (Abnar and Zuidema, 2020).",
    ),
    Method(
        "value_weighted",
        "Value-weighted",
        "Attention weighted by what is moved: ‖pattern[i, j] · vⱼ · W_O‖₂ (Kobayashi et al.,"
        " 2020).",
    ),
    Method(
        "signed",
        "Signed",
        "What each direct path adds to one token's logit, or to the difference of two: its vector"
        " through the final norm, scale frozen, times the unembedding (direct logit attribution)."
        " Sums to the logit.",
    ),
)
HELP_OF = {method.value: method.help for method in METHODS}

RULES = (("sources", "Sources"), ("mass", "Mass"), ("least", "Share"))
#: Presets of each rule, and what follows the number.
PRESETS = {
    "sources": (1, 2, 3, 4, 5, 6, 7, 8),
    "mass": (50, 60, 70, 80, 90, 95),
    "least": (0.5, 1.0, 2.0, 5.0, 10.0),
}
RULE_HELP = {
    "sources": "the strongest attention sources of each node, so many",
    "mass": "the strongest links that carry so much of the mass together",
    "least": "every link that carries at least so much of the mass",
}
STARTS = (("keep", "Keep"), ("loss", "Hide"), ("reweight", "Re-weight"))
SINKS = (("draw", "Draw"), ("fold", "Fold"))
SPLITS = (("sum", "Summed"), ("group", "By group"), ("each", "Each"))
SPLIT_HELP = (
    "Heads that read the same token are one link, split on hover (for shares by pattern that is"
    " the heads' mean); by group, those that share keys and values are; or each head is its own."
)
SCALES = (("adaptive", "Adaptive"), ("fixed", "Fixed"))
SCALE_HELP = (
    "Adaptive: lanes are as tall as what passes them. Fixed: the whole flow is 36 pixels in every"
    " picture, so pictures compare. The key says how much is how tall."
)
DIRECTIONS = (("down", "Down"), ("up", "Up"))
DIRECTION_HELP = (
    "Down: where the chosen state comes from, to the tokens. Up: everything that the chosen state"
    " reaches; from the last row, the chosen token itself is followed up. Shares are then of the"
    " state that is reached."
)
#: Methods whose shares know no single head: they divide attention by the heads' mean pattern.
HEADLESS = ("residual_norm", "rollout")
ROOTS = (("cell", "Cell"), ("answer", "Whole answer"))
#: (value in the selection, text) of a token to choose.
Choices = tuple[tuple[str, str], ...]


def options(
    selection: Selection,
    *,
    answer: bool = False,
    grouped: bool = False,
    tokens: Choices = (),
    foils: Choices = (),
) -> list[Component]:
    """All controls of the method at hand; those that would do nothing are left out."""
    signed = selection.method == "signed"
    further = _tokens(selection, tokens, foils) if signed else _shares(selection, answer, grouped)
    return [
        html.Div(
            control("Shares by", _methods(selection.method)),
            className="controls flow-methods",
        ),
        html.P(HELP_OF[selection.method], className="control-help"),
        html.Div([*_rule(selection), *further], className="controls"),
    ]


def _methods(chosen: str) -> Component:
    buttons = [
        go(
            method.title,
            target(method=method.value),
            f"segment{' is-selected' if method.value == chosen else ''}",
            label=f"Shares: {method.title}",
            pressed=method.value == chosen,
            title=method.help,
        )
        for method in METHODS
    ]
    return html.Div(buttons, className="segmented segmented--wrap")


def _rule(selection: Selection) -> list[Component]:
    name = selection.rule
    value = getattr(selection, name)
    presets = sorted({*PRESETS[name], value})
    unit = "" if name == "sources" else " %"
    numbers = tuple((str(preset), f"{preset:g}{unit}") for preset in presets)
    return [
        control("Main paths", _segmented(switch("rule", RULES, name, "Main paths by"))),
        html.Div(
            _segmented(switch(name, numbers, str(value), RULE_HELP[name])),
            title=f"Main are {RULE_HELP[name]}. The others come out on hover.",
        ),
    ]


def _shares(selection: Selection, answer: bool, grouped: bool) -> list[Component]:
    down = selection.direction == "down"
    splits = SPLITS if grouped else tuple(one for one in SPLITS if one[0] != "group")
    parts = [
        _switched("Direction", "direction", DIRECTIONS, selection, DIRECTION_HELP),
        _switched("Heads", "split", splits, selection, SPLIT_HELP),
        _switched("Scale", "scale", SCALES, selection, SCALE_HELP),
        _switched("Start token", "start", STARTS, selection),
        _switched("Sinks", "sinks", SINKS, selection),
        _switched("Into", "root", ROOTS, selection),
    ]
    shown = (True, selection.method not in HEADLESS, True, True, True, answer and down)
    return [part for part, wanted in zip(parts, shown, strict=True) if wanted]


def _switched(
    text: str, name: str, choices: Choices, selection: Selection, help_text: str = ""
) -> Component:
    """A labelled switch for a field of the selection."""
    buttons = _segmented(switch(name, choices, getattr(selection, name), text))
    return (
        html.Div(control(text, buttons), title=help_text) if help_text else control(text, buttons)
    )


def _tokens(selection: Selection, tokens: Choices, foils: Choices) -> list[Component]:
    chosen, foil = _value(selection.token), _value(selection.foil)
    return [
        control("Logit of", _segmented(switch("token", tokens, chosen, "Logit of"))),
        control("less that of", _segmented(switch("foil", foils, foil, "Less that of"))),
    ]


def _value(token: int | None) -> str:
    return "none" if token is None else str(token)


def _segmented(buttons: list[Component]) -> Component:
    return html.Div(buttons, className="segmented segmented--wrap")
