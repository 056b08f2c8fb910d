"""A flow graph as the ways between its nodes: heads summed or not, each MLP one link."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np

from analysis.results import LINK_KINDS, NODE_KINDS, Graph

#: Nodes in which mass ends before it reaches a token.
ENDS = ("sink", "bias")
#: Attention links: heads of one source summed, those that share keys and values, or each alone.
Heads = Literal["sum", "group", "each"]


class Spot(NamedTuple):
    """Where a node lies: its kind, depth (row of a block, layer of the others) and position."""

    kind: str
    depth: int
    pos: int

    @property
    def level(self) -> float:
        """Depth in rows: a block at its row, what is inside a layer shortly before the next.

        Attention spans more of a layer than the MLP: its bands need room to cross lanes, the MLP's
        enough to be pointed at.
        """
        if self.kind == "block":
            return float(self.depth)
        return self.depth + (0.3 if self.kind in ENDS else 0.6)


class Part(NamedTuple):
    """One way from a node into another.

    Attributes:
        source, target: The nodes.
        kind: One of LINK_KINDS.
        share: Part of what enters the target.
        heads: (head, share) of attention, strongest first.
        group: Which of several attention ways between the same nodes; -1 where heads are summed.
    """

    source: Spot
    target: Spot
    kind: str
    share: float
    heads: tuple[tuple[int, float], ...] = ()
    group: int = -1

    @property
    def key(self) -> tuple[Spot, Spot, str, int]:
        """What tells it from every other way."""
        return self.source, self.target, self.kind, self.group


def merge(graph: Graph, heads: Heads = "sum", group_size: int = 1) -> dict[Spot, list[Part]]:
    """The ways into each node, each MLP one link from its reader to its writer.

    Args:
        graph: By shares.
        heads: Which heads that read the same source are one way.
        group_size: Heads that share keys and values, for "group".
    """
    spots = _spots(graph)
    written = _written(graph, spots)
    shares: dict[tuple[int, int, str, int], float] = defaultdict(float)
    split: dict[tuple[int, int, str, int], list[tuple[int, float]]] = defaultdict(list)
    mlp_share: dict[int, float] = defaultdict(float)
    for source, target, kind, head, share in _rows(graph):
        if spots[source].kind == "mlp":
            mlp_share[source] += share
            continue
        if kind == "other":
            continue
        key = (source, target, kind, _group(head, heads, group_size))
        shares[key] += share
        if kind == "attention" and head >= 0:
            split[key].append((head, share))
    parts: dict[Spot, list[Part]] = defaultdict(list)
    for (source, target, kind, group), share in shares.items():
        if spots[target].kind != "mlp":
            by_head = sorted(split[source, target, kind, group], key=lambda part: -part[1])
            part = Part(spots[source], spots[target], kind, share, tuple(by_head), group)
        elif target in written:
            whole = share * mlp_share[target]
            part = Part(spots[source], spots[written[target]], "mlp", whole)
        else:
            continue
        parts[part.target].append(part)
    return dict(parts)


def leaving(parts: dict[Spot, list[Part]]) -> dict[Spot, list[Part]]:
    """The same ways by the node that they leave."""
    found: dict[Spot, list[Part]] = defaultdict(list)
    for ways in parts.values():
        for part in ways:
            found[part.source].append(part)
    return dict(found)


def wholes(graph: Graph) -> dict[Spot, float]:
    """Each node's mass by all links of the graph; upwards, by all links there are."""
    known = graph.node_whole if len(graph.node_whole) else graph.node_flow
    return dict(zip(_spots(graph), known.tolist(), strict=True))


def flows(graph: Graph) -> dict[Spot, float]:
    """Each node's mass by the graph's links."""
    return dict(zip(_spots(graph), graph.node_flow.tolist(), strict=True))


def _group(head: int, heads: Heads, group_size: int) -> int:
    if head < 0 or heads == "sum":
        return -1
    return head // group_size if heads == "group" else head


def _written(graph: Graph, spots: list[Spot]) -> dict[int, int]:
    """The node that each MLP writes to."""
    pairs = zip(graph.link_source.tolist(), graph.link_target.tolist(), strict=True)
    return {source: target for source, target in pairs if spots[source].kind == "mlp"}


def _spots(graph: Graph) -> list[Spot]:
    return [
        Spot(NODE_KINDS[kind], depth, pos)
        for kind, depth, pos in zip(
            graph.node_kind.tolist(),
            graph.node_depth.tolist(),
            graph.node_pos.tolist(),
            strict=True,
        )
    ]


def _rows(graph: Graph) -> Iterable[tuple[int, int, str, int, float]]:
    kinds = [LINK_KINDS[kind] for kind in graph.link_kind.tolist()]
    return zip(
        graph.link_source.tolist(),
        graph.link_target.tolist(),
        kinds,
        graph.link_head.tolist(),
        np.nan_to_num(graph.link_share).tolist(),
        strict=True,
    )
