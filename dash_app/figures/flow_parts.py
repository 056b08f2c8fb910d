"""A flow graph as the ways into each of its nodes: heads summed, each MLP one link."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from analysis.results import LINK_KINDS, NODE_KINDS, Graph

#: Nodes in which mass ends before it reaches a token.
ENDS = ("sink", "bias")


class Spot(NamedTuple):
    """Where a node lies: its kind, depth (row of a block, layer of the others) and position."""

    kind: str
    depth: int
    pos: int

    @property
    def level(self) -> float:
        """Depth in rows: a block at its row, what is inside a layer shortly before the next.

        Attention spans most of a layer so that its bands have room to cross lanes.
        """
        if self.kind == "block":
            return float(self.depth)
        return self.depth + (0.3 if self.kind in ENDS else 0.78)


class Part(NamedTuple):
    """One way into a node, heads summed."""

    source: Spot
    kind: str
    share: float
    heads: tuple[tuple[int, float], ...]


def merge(graph: Graph) -> dict[Spot, list[Part]]:
    """The ways into each node, heads summed, each MLP one link from its reader to its writer."""
    spots = _spots(graph)
    written = {
        source: target
        for source, target in zip(
            graph.link_source.tolist(), graph.link_target.tolist(), strict=True
        )
        if spots[source].kind == "mlp"
    }
    shares: dict[tuple[int, int, str], float] = defaultdict(float)
    heads: dict[tuple[int, int, str], list[tuple[int, float]]] = defaultdict(list)
    mlp_share: dict[int, float] = defaultdict(float)
    for source, target, kind, head, share in _rows(graph):
        if spots[source].kind == "mlp":
            mlp_share[source] += share
            continue
        key = (source, target, kind)
        shares[key] += share
        if kind == "attention" and head >= 0:
            heads[key].append((head, share))
    parts: dict[Spot, list[Part]] = defaultdict(list)
    for (source, target, kind), share in shares.items():
        if spots[target].kind != "mlp":
            split = tuple(sorted(heads[source, target, kind], key=lambda part: -part[1]))
            parts[spots[target]].append(Part(spots[source], kind, share, split))
        elif target in written:
            whole = share * mlp_share[target]
            parts[spots[written[target]]].append(Part(spots[source], "mlp", whole, ()))
    return dict(parts)


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
