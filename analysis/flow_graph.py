"""Collect nodes and links while the flow is walked back, prune, and give columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.flow_shares import Shares
from analysis.results import LINK_KINDS, NODE_KINDS, Graph
from analysis.specs import FlowSpec

_LINK = {kind: number for number, kind in enumerate(LINK_KINDS)}
_NODE = {kind: number for number, kind in enumerate(NODE_KINDS)}
Key = tuple[str, int, int]


@dataclass(frozen=True)
class _Link:
    kind: str
    layer: int
    head: int
    source: Key
    target: Key
    share: float


class GraphBuilder:
    """Grows a graph from its root downwards.

    Nodes are visited in an order in which every link into a node's own targets
    is known before its parts are asked for, so one pass gives all flows.
    """

    def __init__(self, spec: FlowSpec, row: int, position: int, size: int) -> None:
        self.spec, self.row, self.position, self.size = spec, row, position, size
        self.flow: dict[Key, float] = {("block", row, position): 1.0}
        self.links: list[_Link] = []
        self.fallback: set[Key] = set()

    def carrying(self, kind: str, depth: int) -> list[int]:
        """Positions at which nodes of this kind and depth carry mass, ascending."""
        return sorted(
            pos for (k, d, pos), flow in self.flow.items() if k == kind and d == depth and flow > 0
        )

    def mlp_step(self, layer: int, pos: int, shares: Shares) -> None:
        """A block's output: its MLP, and the mid residual that both come from."""
        target = self._target("block", layer + 1, pos, shares)
        mid, mlp = ("mid", layer, pos), ("mlp", layer, pos)
        self._link("residual", layer, -1, mid, target, float(shares.rest[0]))
        if self._link("mlp", layer, -1, mlp, target, float(shares.rest[1])):
            self._link("mlp", layer, -1, mid, mlp, 1.0)

    def attention_step(self, layer: int, pos: int, shares: Shares) -> None:
        """A mid residual: heads and sources, biases, and the residual."""
        self._attention(layer, self._target("mid", layer, pos, shares), pos, shares)

    def parallel_step(self, layer: int, pos: int, shares: Shares) -> None:
        """A parallel block's output: all parts at once; the MLP reads the block's input."""
        target = self._target("block", layer + 1, pos, shares)
        self._attention(layer, target, pos, shares)
        mlp = ("mlp", layer, pos)
        if self._link("mlp", layer, -1, mlp, target, float(shares.rest[1])):
            self._link("mlp", layer, -1, ("block", layer, pos), mlp, 1.0)

    def _target(self, kind: str, depth: int, pos: int, shares: Shares) -> Key:
        key = (kind, depth, pos)
        if shares.fallback:
            self.fallback.add(key)
        return key

    def _attention(self, layer: int, target: Key, pos: int, shares: Shares) -> None:
        self._link("residual", layer, -1, ("block", layer, pos), target, float(shares.rest[0]))
        self._link("bias", layer, -1, ("bias", layer, pos), target, shares.bias)
        self._link("sink", layer, -1, ("sink", layer, pos), target, shares.sink)
        table = shares.heads if self.spec.per_head else shares.heads.sum(0, keepdims=True)
        for head, source in _strongest(table, self.spec.top_k):
            number = head if self.spec.per_head else -1
            share = float(table[head, source])
            self._link("attention", layer, number, ("block", layer, source), target, share)

    def _link(
        self, kind: str, layer: int, head: int, source: Key, target: Key, share: float
    ) -> bool:
        if share <= self.spec.threshold:
            return False
        self.links.append(_Link(kind, layer, head, source, target, share))
        self.flow[source] = self.flow.get(source, 0.0) + self.flow[target] * share
        return True

    # -- pruning to a budget ---------------------------------------------------------------

    def _within_budget(self) -> None:
        budget = self.spec.budget
        if budget is None or len(self.links) <= budget:
            return
        flows = np.array([self.flow[link.target] * link.share for link in self.links])
        kept = np.sort(np.argsort(-flows, kind="stable")[:budget])
        chosen = [self.links[int(place)] for place in kept]
        self.flow = {("block", self.row, self.position): 1.0}
        self.links = []
        # Links are stored from the root downwards: a target's flow is whole when it is used.
        for link in chosen:
            if self.flow.get(link.target, 0.0) > 0.0:
                self.links.append(link)
                self.flow[link.source] = (
                    self.flow.get(link.source, 0.0) + self.flow[link.target] * link.share
                )

    def finish(self) -> Graph:
        """Prune to the budget and give the graph in columns."""
        self._within_budget()
        keys = sorted(self.flow, key=_order)
        number = {key: place for place, key in enumerate(keys)}
        terminal = sum(flow for (kind, *_), flow in self.flow.items() if kind in ("bias", "sink"))
        arrived = sum(
            flow for (kind, depth, _), flow in self.flow.items() if kind == "block" and depth == 0
        )
        flows = [self.flow[link.target] * link.share for link in self.links]
        return Graph(
            position=self.position,
            row=self.row,
            method=self.spec.method,
            node_kind=_ints([_NODE[kind] for kind, _, _ in keys]),
            node_depth=_ints([depth for _, depth, _ in keys]),
            node_pos=_ints([pos for _, _, pos in keys]),
            node_flow=_floats([self.flow[key] for key in keys]),
            link_kind=_ints([_LINK[link.kind] for link in self.links]),
            link_layer=_ints([link.layer for link in self.links]),
            link_head=_ints([link.head for link in self.links]),
            link_source=_ints([number[link.source] for link in self.links]),
            link_target=_ints([number[link.target] for link in self.links]),
            link_share=_floats([link.share for link in self.links]),
            link_flow=_floats(flows),
            hidden_share=float(max(1.0 - arrived - terminal, 0.0)),
            terminal_share=float(terminal),
            fallback_nodes=_ints([number[key] for key in self.fallback if key in number]),
        )


def _strongest(table: NDArray[np.float64], top_k: int | None) -> list[tuple[int, int]]:
    """(head, source) of the strongest entries, best first; all that are not 0 without a limit."""
    order = np.argsort(-table, axis=None, kind="stable")
    order = order[: int((table > 0.0).sum())]
    order = order if top_k is None else order[:top_k]
    heads, sources = np.unravel_index(order, table.shape)
    return list(zip(heads.tolist(), sources.tolist(), strict=True))


def _order(key: Key) -> tuple[int, int, int]:
    """The root first, then downwards."""
    kind, depth, pos = key
    level = 3 * depth if kind == "block" else 3 * depth + (2 if kind == "mlp" else 1)
    return (-level, NODE_KINDS.index(kind), pos)


def _ints(values: list[int]) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def _floats(values: list[float]) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)
