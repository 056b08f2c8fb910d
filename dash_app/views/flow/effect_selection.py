"""Which links of an effect graph are drawn, with their estimated and measured effects."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from analysis.flow_graph.results import LINK_KINDS, CausalCheck, Graph
from dash_app.views.flow.link_selection import USUAL, Rule

#: Most links, and most lanes of tokens.
LIMIT, LANES = 120, 14
#: A measured effect differs from its estimate if this part of the larger one lies between them.
DIFFERS = 0.2


class Cuttable(NamedTuple):
    """A link, and what cutting it does to the logit.

    Attributes:
        kind: "attention" or "mlp".
        layer: The block.
        head: The head; -1 for all heads together, and for an MLP.
        source, target: Positions.
        estimate: The estimated effect; NaN if unknown.
        found: The measured effect; NaN if unknown.
        measured: Whether the measured effect is drawn, not the estimated one.
    """

    kind: str
    layer: int
    head: int
    source: int
    target: int
    estimate: float
    found: float
    measured: bool

    @property
    def effect(self) -> float:
        """The drawn effect, in logits."""
        return self.found if self.measured else self.estimate

    @property
    def differs(self) -> bool:
        """Whether the measured effect is not the estimated one."""
        gap = abs(self.estimate - self.found)
        return bool(gap > DIFFERS * max(abs(self.estimate), abs(self.found)))

    @property
    def wrong(self) -> bool:
        """Whether the drawn effect is an estimate that differs from the measured effect."""
        return self.differs and not self.measured


@dataclass(frozen=True, slots=True)
class Effects:
    """The selected links of an effect graph.

    Attributes:
        links: The drawn links, strongest first.
        size: Sum of the absolute effects of all links.
        left_out: Number of links that are not drawn.
        positions: Tokens with a lane.
        checked: Number of drawn links whose effect is both estimated and measured.
    """

    links: tuple[Cuttable, ...]
    size: float
    left_out: int
    positions: tuple[int, ...]
    checked: int

    @property
    def shown(self) -> float:
        """Drawn part of the sum of absolute effects, 0 to 1."""
        return sum(abs(link.effect) for link in self.links) / max(self.size, 1e-30)

    @property
    def measured(self) -> float:
        """Part of the drawn absolute effect that is measured, 0 to 1."""
        drawn = sum(abs(link.effect) for link in self.links)
        return sum(abs(link.effect) for link in self.links if link.measured) / max(drawn, 1e-30)


def select_effects(
    graph: Graph,
    rule: Rule = USUAL,
    *,
    estimated: Graph | None = None,
    check: CausalCheck | None = None,
    redrawn: bool = False,
) -> Effects:
    """Select the links by the rule; "sources" counts the attention links into a state.

    Args:
        graph: An effect graph.
        rule: Which links are drawn.
        estimated: The same graph with every effect estimated.
        check: Measured effects of some links.
        redrawn: Whether they are drawn in place of the estimates.
    """
    if graph.method != "effect":
        raise ValueError(f"a {graph.method} graph has no effects")
    links = _links(graph)
    guesses = {link[:5]: link.estimate for link in _links(estimated or graph)}
    known = {} if check is None else _by_link(check)
    links = [_completed(link, guesses, known, redrawn) for link in links]
    links.sort(key=lambda link: -abs(link.effect))
    size = float(np.abs(graph.link_share.astype(np.float64)).sum())
    size /= max(1.0 - graph.hidden_share, 1e-6)
    kept = _kept(links, rule, size)
    positions = _lanes(kept)
    drawn = tuple(link for link in kept if link.source in positions and link.target in positions)[
        :LIMIT
    ]
    checked = sum(not np.isnan(link.estimate + link.found) for link in drawn)
    return Effects(drawn, size, len(links) - len(drawn), positions, checked)


def _links(graph: Graph) -> list[Cuttable]:
    columns = (
        graph.link_kind, graph.link_layer, graph.link_head, graph.node_pos[graph.link_source],
        graph.node_pos[graph.link_target], graph.link_share, graph.link_measured,
    )  # fmt: skip
    rows = zip(*(column.tolist() for column in columns), strict=True)
    unknown, found = float("nan"), []
    for kind, layer, head, source, target, effect, cut in rows:
        estimate, measured = (unknown, effect) if cut else (effect, unknown)
        link = Cuttable(LINK_KINDS[kind], layer, head, source, target, estimate, measured, cut)
        found.append(link)
    return found


def _by_link(check: CausalCheck) -> dict[tuple[Any, ...], float]:
    """The measured effect by kind, layer, head, source and target."""
    columns = (check.layer, check.head, check.source_pos, check.target_pos)
    places = zip(*(column.tolist() for column in columns), strict=True)
    kinds = [LINK_KINDS[kind] for kind in check.kind.tolist()]
    return {
        (kind, *place): effect
        for kind, place, effect in zip(kinds, places, check.effect.tolist(), strict=True)
    }


def _completed(
    link: Cuttable,
    guesses: dict[tuple[Any, ...], float],
    known: dict[tuple[Any, ...], float],
    redrawn: bool,
) -> Cuttable:
    """The link with its estimate and its measured effect, as far as they are known."""
    estimate = guesses.get(link[:5], link.estimate)
    found = link.found if link.measured else known.get(link[:5], link.found)
    measured = link.measured or (redrawn and not np.isnan(found))
    return link._replace(estimate=estimate, found=found, measured=measured)


def _kept(links: list[Cuttable], rule: Rule, whole: float) -> list[Cuttable]:
    if rule.name == "least":
        return [link for link in links if abs(link.effect) >= rule.least * whole]
    if rule.name == "mass":
        before = np.cumsum([0.0, *(abs(link.effect) for link in links)])[:-1]
        return [link for link, sum_ in zip(links, before, strict=True) if sum_ < rule.mass * whole]
    seen: dict[tuple[int, int], int] = defaultdict(int)
    kept = []
    for link in links:
        seen[link.layer, link.target] += link.kind == "attention"
        if link.kind != "attention" or seen[link.layer, link.target] <= rule.sources:
            kept.append(link)
    return kept


def _lanes(links: list[Cuttable]) -> tuple[int, ...]:
    mass: dict[int, float] = defaultdict(float)
    for link in links:
        for position in {link.source, link.target}:
            mass[position] += abs(link.effect)
    return tuple(sorted(sorted(mass, key=lambda pos: -mass[pos])[:LANES]))
