"""The controls of the flow view, and the specs and drawing rule that the selection asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dash.development.base_component import Component

from analysis.contract.choices import Choices, Situation
from analysis.contract.specs import ModelInfo
from analysis.flow_graph.options import DIRECTIONS, FLOW_METHODS, SHARES, START_TOKEN
from analysis.flow_graph.specs import CausalSpec, ComparisonSpec, FlowSpec, LinkSpec, NeuronSpec
from dash_app.page.panel import Option, control, options_of, segmented, switch
from dash_app.page.thin_layout import html
from dash_app.page.token_labels import logit_controls
from dash_app.state.options import EFFECTS, MAIN_PATHS, ROOTS, SCALES, SINKS, SPLITS
from dash_app.state.selection import RunRef, Selection, resolve
from dash_app.views.flow.effect_selection import LIMIT
from dash_app.views.flow.link_selection import Look, Rule

#: The graph omits links with a smaller share: they would be thinner than a line.
THINNEST = 0.001
#: Links of a graph in logits. A signed graph sums all others in one "other" path.
PATHS = 4000
#: With more tokens, the cuts of an effect graph would take minutes.
EXACT_UP_TO = 64
#: Number of links to cut: of the picture, and of each method in the comparison.
CUTS, CUTS_EACH = 60, 20


def answer(run: RunRef) -> tuple[int, ...]:
    """Positions of the states that predict the answer's tokens."""
    return tuple(range(run.prompt_length - 1, len(run.token_ids) - 1))


def possible(selection: Selection, info: ModelInfo) -> tuple[Selection, str]:
    """The selection with a method that the model can do, and a note if that is another one."""
    situation, chosen = Situation(info), FLOW_METHODS[selection.method]
    reason = chosen.unavailable(situation)
    if not reason:
        return selection, ""
    shown = FLOW_METHODS[FLOW_METHODS.usable(situation)]
    note = f"{chosen.label} is not available. {reason} Shown: {shown.label}."
    return selection.model_copy(update={"method": shown.name}), note


def wanted(run: RunRef, selection: Selection, *, exact: bool = False) -> FlowSpec | None:
    """The spec of the graph; None at the embedding, which nothing flows into.

    ``exact`` is for effects: whether some MLPs are cut, if the prompt is short enough.
    """
    chosen = resolve(selection, run)
    if FLOW_METHODS[selection.method].signed:
        token, foil = (_known(token, run) for token in (selection.token, selection.foil))
        more: dict[str, Any] = {"token": token, "foil": foil, "budget": PATHS}
        if selection.method == "effect":
            short = chosen.pos < EXACT_UP_TO
            more |= {"exact": exact and short, "per_head": selection.split == "each"}
        return FlowSpec(chosen.pos, run.layers, selection.method, **more)
    whole = selection.root == "answer" and len(answer(run)) > 1 and selection.direction == "down"
    row = run.layers if whole else chosen.row
    if selection.direction == "up":
        row %= run.layers  # the last row reaches nothing, so the token itself is followed up
    elif not row:
        return None
    return FlowSpec(
        answer(run) if whole else chosen.pos,
        row,
        selection.method,
        THINNEST,
        direction=selection.direction,
        fold_sinks=selection.sinks == "fold",
        hide_start=selection.start,
    )


def graphs(_service: Any, run: RunRef, selection: Selection) -> list[Any]:
    """The requests of the drawn graph; of effects the measured ones first, then estimates."""
    found: list[Any] = [wanted(run, selection, exact=True), wanted(run, selection)]
    if selection.method == "effect" and selection.effects == "measured":
        found.append(causal_check(run, selection))
    return [spec for spec in found if spec is not None]


def checks(_service: Any, run: RunRef, selection: Selection) -> list[Any]:
    """The requests of the causal check and of the comparison of methods."""
    cut = causal_check(run, selection)
    return [*([] if cut is None else [cut]), comparison(run, selection)]


def links(_service: Any, _run: RunRef, selection: Selection) -> list[Any]:
    """The requests of the chosen link, and of the neurons of its MLP."""
    chosen = link(selection)
    if chosen is None:
        return []
    return [chosen, *([neurons(chosen)] if chosen.kind == "mlp" else [])]


def neurons(chosen: LinkSpec) -> NeuronSpec:
    """The most responsible neurons of a link's MLP."""
    return NeuronSpec(chosen.layer, chosen.target_pos, k=8, tokens=4)


def _known(token: int | None, run: RunRef) -> int | None:
    return token if token is not None and token < run.vocab else None


def rule(selection: Selection) -> Rule:
    """The rule that decides which links are main ones."""
    return Rule(selection.rule, selection.sources, selection.mass / 100, selection.least / 100)


def look(selection: Selection, info: ModelInfo) -> Look:
    """The layers that are drawn, and how."""
    return Look(
        selection.first,
        selection.last,
        selection.split,
        max(info.heads // max(info.kv_heads, 1), 1),
        selection.scale == "adaptive",
    )


def causal_check(run: RunRef, selection: Selection) -> CausalSpec | None:
    """The causal check of the selected graph; None if there is no graph.

    Raises:
        SpecError: If the graph has several roots.
    """
    flow = wanted(run, selection)
    limit = LIMIT if selection.method == "effect" else CUTS
    return None if flow is None else CausalSpec(flow, limit=limit)


def comparison(run: RunRef, selection: Selection) -> ComparisonSpec:
    """The comparison of all methods at the chosen position, for the chosen tokens.

    Of effects, links are measured as in the picture.
    """
    pos = resolve(selection, run).pos
    signed = FLOW_METHODS[selection.method].signed
    return ComparisonSpec(
        CausalSpec(
            FlowSpec(pos, run.layers, SHARES, THINNEST, exact=pos < EXACT_UP_TO),
            token=_known(selection.token, run) if signed else None,
            foil=_known(selection.foil, run) if signed else None,
            limit=CUTS_EACH,
        )
    )


def link(selection: Selection) -> LinkSpec | None:
    """The spec of the chosen link; None if no link is chosen.

    Raises:
        SpecError: If the link is impossible.
    """
    if not selection.link:
        return None
    kind, *numbers = selection.link.split(":")
    layer, source, target, head = map(int, numbers)
    return LinkSpec(
        kind, layer, source, target, None if head < 0 else head, k=6,
    )  # fmt: skip


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
