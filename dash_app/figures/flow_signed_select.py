"""Which paths of a signed flow graph are drawn: a bar for each kind, layer, source and sign.

The heads of a layer that read the same token are one bar up and one bar down, never their
difference: what cancels is seen.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from analysis.results import LINK_KINDS, Graph
from dash_app.figures.flow_rule import USUAL, Rule

#: Bars drawn at most, those of what is left out included; lanes of tokens at most.
LIMIT, LANES = 298, 14
#: Where the embedding stands, left of layer 0.
EMBEDDING = -1


class Bar(NamedTuple):
    """Paths of one kind, layer, source and sign.

    Attributes:
        kind: One of LINK_KINDS. layer: The block; the embedding has -1.
        source: Position it reads.
        logits: What it adds, all heads together.
        heads: (head, logits), strongest first.
    """

    kind: str
    layer: int
    source: int
    logits: float
    heads: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Signed:
    """What is drawn of a signed graph, all in logits.

    Attributes:
        bars: Drawn ones, strongest first.
        raised, lowered: Sums of the drawn.
        other_raised, other_lowered: Sums of the bars left out; what the graph itself pruned is net.
        left_out: How many bars.
        size: Sum of absolute values of all paths, those that the graph itself pruned included.
        pruned: What those add, net; part of the others.
        total: Sum of every link. logit: What it explains.
        positions: Tokens with a lane.
    """

    bars: tuple[Bar, ...]
    raised: float
    lowered: float
    other_raised: float
    other_lowered: float
    left_out: int
    size: float
    pruned: float
    total: float
    logit: float
    positions: tuple[int, ...]

    @property
    def error(self) -> float:
        """Sum of all links less the logit."""
        return self.total - self.logit

    @property
    def shown(self) -> float:
        """Drawn part of the sum of absolute values, 0 to 1."""
        return (self.raised - self.lowered) / max(self.size, 1e-30)


def select_signed(graph: Graph, rule: Rule = USUAL) -> Signed:
    """Choose the bars of a signed graph by the rule: its sources are then those of a layer."""
    if graph.method != "signed":
        raise ValueError(f"a {graph.method} graph has shares, not logits")
    bars, pruned = _bars(graph)
    size = _size(graph, bars, pruned)
    kept = _kept(bars, rule, size)
    positions = _lanes(kept)
    drawn = [bar for bar in kept if bar.kind != "attention" or bar.source in positions][:LIMIT]
    taken = set(drawn)
    rest = [bar.logits for bar in bars if bar not in taken] + [pruned]
    return Signed(
        bars=tuple(drawn),
        raised=sum(max(bar.logits, 0.0) for bar in drawn),
        lowered=sum(min(bar.logits, 0.0) for bar in drawn),
        other_raised=sum(max(value, 0.0) for value in rest),
        other_lowered=sum(min(value, 0.0) for value in rest),
        left_out=len(bars) - len(drawn),
        size=size,
        pruned=pruned,
        total=float(graph.link_share.astype(np.float64).sum()),
        logit=graph.logit,
        positions=positions,
    )


def _size(graph: Graph, bars: list[Bar], pruned: float) -> float:
    """Sum of absolute values of all paths: of those pruned only their part of it is known."""
    known = sum(abs(bar.logits) for bar in bars)
    return max(known / max(1.0 - graph.hidden_share, 1e-6), known + abs(pruned))


def _bars(graph: Graph) -> tuple[list[Bar], float]:
    """All bars, strongest first, and what the graph pruned."""
    parts: dict[tuple[str, int, int, bool], list[tuple[int, float]]] = defaultdict(list)
    pruned = 0.0
    columns = (graph.link_kind, graph.link_layer, graph.link_head, graph.link_share)
    sources = graph.node_pos[graph.link_source].tolist()
    for (kind, layer, head, logits), source in zip(
        zip(*(column.tolist() for column in columns), strict=True), sources, strict=True
    ):
        name = LINK_KINDS[kind]
        if name == "other":
            pruned += logits
            continue
        where = EMBEDDING if name == "residual" else layer
        parts[name, where, source, logits > 0].append((head, logits))
    bars = []
    for (name, layer, source, _), ways in parts.items():
        heads = sorted((way for way in ways if way[0] >= 0), key=lambda way: -abs(way[1]))
        bars.append(Bar(name, layer, source, sum(way[1] for way in ways), tuple(heads)))
    return sorted(bars, key=lambda bar: -abs(bar.logits)), pruned


def _kept(bars: list[Bar], rule: Rule, whole: float) -> list[Bar]:
    if rule.name == "least":
        return [bar for bar in bars if abs(bar.logits) >= rule.least * whole]
    if rule.name == "mass":
        before = np.cumsum([0.0, *(abs(bar.logits) for bar in bars)])[:-1]
        return [bar for bar, sum_ in zip(bars, before, strict=True) if sum_ < rule.mass * whole]
    seen: dict[int, int] = defaultdict(int)
    kept = []
    for bar in bars:
        seen[bar.layer] += bar.kind == "attention"
        if bar.kind != "attention" or seen[bar.layer] <= rule.sources:
            kept.append(bar)
    return kept


def _lanes(bars: list[Bar]) -> tuple[int, ...]:
    mass: dict[int, float] = defaultdict(float)
    for bar in bars:
        if bar.kind in ("attention", "residual"):
            mass[bar.source] += abs(bar.logits)
    return tuple(sorted(sorted(mass, key=lambda pos: -mass[pos])[:LANES]))
