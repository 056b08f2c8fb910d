"""From the selection to the specs of the flow, and to the rule of what is drawn."""

from __future__ import annotations

from typing import Any

from analysis.contract.choices import Situation
from analysis.contract.specs import ModelInfo
from analysis.flow_graph.options import FLOW_METHODS
from analysis.flow_graph.specs import CausalSpec, ComparisonSpec, FlowSpec, LinkSpec, NeuronSpec
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
        found.append(check(run, selection))
    return [spec for spec in found if spec is not None]


def checks(_service: Any, run: RunRef, selection: Selection) -> list[Any]:
    """The requests of the causal check and of the comparison of methods."""
    cut = check(run, selection)
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


def check(run: RunRef, selection: Selection) -> CausalSpec | None:
    """The causal check of the selected graph; None if there is no graph.

    Raises:
        SpecError: If the graph has several roots.
    """
    flow = wanted(run, selection)
    limit = LIMIT if selection.method == "effect" else CUTS
    return None if flow is None else CausalSpec(flow, limit=limit)


def comparison(run: RunRef, selection: Selection) -> ComparisonSpec:
    """The comparison of all methods at the chosen position, for the chosen tokens."""
    pos = resolve(selection, run).pos
    signed = FLOW_METHODS[selection.method].signed
    return ComparisonSpec(
        CausalSpec(
            FlowSpec(pos, run.layers, "proximity", THINNEST),
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
