"""Grow a flow graph step by step, cut it to the budget, and sum up what is hidden."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.contract.specs import Floats, Ints
from analysis.flow_graph.mass_flow import (
    COLUMNS,
    LINK,
    NODE,
    Doubles,
    LinkBatch,
    MassFlow,
    Widths,
    strongest,
)
from analysis.flow_graph.methods import Shares
from analysis.flow_graph.results import ENDS, Graph
from analysis.flow_graph.specs import FlowSpec

#: A share up to this size that no link carries is a rounding error.
_ROUNDING = 1e-6


def _fit_budget(flow: MassFlow) -> None:
    """Keep the largest links that fit the budget, and carry the mass along these alone.

    All that enters a node by cut links becomes one "other" link to it. These count towards the
    budget too, so a binary search finds how many links leave room for them.
    """
    budget = flow.spec.budget
    if budget is None or not flow.batches:
        return
    flow.cut(budget)
    known = flow.batches
    low, high = 0, budget  # with no link kept there is one "other" link to each root
    while low < high:
        middle = (low + high + 1) // 2
        fits = flow.follow(known, middle) + len(_others(flow).flow) <= budget
        low, high = (middle, high) if fits else (low, middle - 1)
    kept = flow.follow(known, low)
    others = _others(flow)
    others = others.only(np.arange(len(others.flow)) < budget - kept)
    if len(others.flow):
        flow.batches.append(others)
        # Upwards, flows are parts of the masses of different states, which can't be added.
        joined = np.maximum if flow.up else np.add
        joined.at(flow.mass, others.source, others.flow)


def _others(flow: MassFlow) -> LinkBatch:
    """One link to each node for all that enters it by cut links, so that in-shares sum to 1.

    Downwards it carries the rest of the node's mass. Upwards it carries the root's mass that no
    drawn path carries: that of cut links into the node itself or into a node below it.
    """
    entered, share = np.zeros(flow.codes.count), np.zeros(flow.codes.count)
    for batch in flow.batches:
        np.add.at(entered, batch.target, batch.flow)
        np.add.at(share, batch.target, batch.share)
    rest = np.maximum(1.0 - share, 0.0)
    carried = np.maximum(flow.reach - entered, 0.0) if flow.up else rest * flow.mass
    kind, depth, pos = flow.codes.split(np.arange(flow.codes.count))
    block = kind == NODE["block"]
    inside = block | (kind == NODE["mid"]) | (kind == NODE["mlp"])
    ends = block & (depth == (flow.row if flow.up else 0))
    lacking = (rest > _ROUNDING) | ((carried > _ROUNDING) & flow.up)
    nodes = np.flatnonzero((flow.mass > 0.0) & inside & ~ends & lacking)
    layer = (depth - block)[nodes]
    source = flow.codes.of("other", 0, pos[nodes]) + layer * flow.codes.size
    size = np.zeros(len(nodes), np.int64)
    return LinkBatch(
        size + LINK["other"], layer, size - 1, source, nodes, rest[nodes], carried[nodes]
    )


def _columns(flow: MassFlow) -> Graph:
    """The graph with numbered nodes and links, its hidden share and its terminal share."""
    roots = flow.codes.of("block", flow.row, np.array(flow.roots))
    used = np.zeros(flow.codes.count, bool)
    used[roots] = True
    for batch in flow.batches:
        used[batch.source] = used[batch.target] = True
    nodes = flow.codes.ordered(np.flatnonzero(used))
    place = np.zeros(flow.codes.count, np.int64)
    place[nodes] = np.arange(len(nodes))
    kind, depth, pos = flow.codes.split(nodes)
    empty = np.zeros(0, np.int64)
    fallback = np.intersect1d(np.concatenate([empty, *flow.fallback]), nodes)
    return Graph(
        position=flow.roots[0],
        row=flow.row,
        method=flow.spec.choice.name,
        node_kind=kind,
        node_depth=depth,
        node_pos=pos,
        node_flow=flow.mass[nodes].astype(np.float32),
        **_link_columns(flow.batches, place),
        hidden_share=_hidden(flow),
        terminal_share=0.0 if flow.up else _terminal(flow),
        fallback_nodes=place[fallback],
        direction=flow.spec.direction,
        roots=flow.roots,
        node_whole=_whole(flow, nodes),
    )


def _link_columns(batches: list[LinkBatch], place: Ints) -> dict[str, Any]:
    """The columns of all links, each filled in place: graphs can have millions of links."""
    size = sum(len(batch.flow) for batch in batches)
    found = {
        f"link_{name}": np.empty(size, np.float32 if name in ("share", "flow") else np.int64)
        for name in COLUMNS
    }
    start = 0
    for batch in batches:
        here = slice(start, start + len(batch.flow))
        for name in ("kind", "layer", "head", "share", "flow"):
            found[f"link_{name}"][here] = getattr(batch, name)
        for name in ("source", "target"):
            np.take(place, getattr(batch, name), out=found[f"link_{name}"][here])
        start = here.stop
    return found


def _whole(flow: MassFlow, nodes: Ints) -> Floats:
    """The part of each node that comes from the root by all links; downwards, its flow."""
    found: Floats = (flow.reach if flow.up else flow.mass)[nodes].astype(np.float32)
    return found


def _terminal(flow: MassFlow) -> float:
    codes = [
        flow.codes.of(kind, layer, np.arange(flow.codes.size))
        for kind in ENDS
        for layer in range(flow.layers)
    ]
    return float(flow.mass[np.concatenate(codes)].sum())


def _hidden(flow: MassFlow) -> float:
    positions = np.arange(flow.codes.size)
    if flow.up:
        last = flow.codes.of("block", flow.layers, positions)
        whole = float(flow.reach[last].sum())
        drawn = float(flow.mass[last].sum())
        return max(1.0 - drawn / whole, 0.0) if whole > 0.0 else 0.0
    arrived = float(flow.mass[flow.codes.of("block", 0, positions)].sum())
    return max(1.0 - arrived - _terminal(flow), 0.0)


class GraphBuilder(MassFlow):
    """Grows a graph from its roots, down to the tokens or up to the last row."""

    def __init__(
        self, spec: FlowSpec, layers: int, size: int, row: int, roots: tuple[int, ...]
    ) -> None:
        super().__init__(spec, layers, size, row, roots)
        reached = np.where(self.mass > 0.0, np.inf, 0.0)
        self._widths_known = None if spec.budget is None else Widths(reached, spec.budget)

    def block_step(self, layer: int, queries: Ints, shares: Shares) -> None:
        """Add block outputs, made of the MLP and the mid residual that the MLP reads."""
        mid = self.codes.of("mid", layer, queries)
        target = self._target("block", layer + 1, queries, shares)
        self._add("residual", layer, mid, target, shares.rest[0])
        self._others(layer, queries, mid, target, shares)

    def mid_step(self, layer: int, queries: Ints, shares: Shares) -> None:
        """Add mid residuals, made of heads and sources, biases, and the residual."""
        target = self._target("mid", layer, queries, shares)
        self._attention(layer, queries, target, shares)
        self._others(layer, queries, target, target, shares)

    def parallel_step(self, layer: int, queries: Ints, shares: Shares) -> None:
        """Add outputs of parallel blocks, made of all parts; the MLP reads the block's input."""
        target = self._target("block", layer + 1, queries, shares)
        self._attention(layer, queries, target, shares)
        self._others(layer, queries, self.codes.of("block", layer, queries), target, shares)

    def _others(self, layer: int, queries: Ints, reads: Ints, target: Ints, shares: Shares) -> None:
        """Add the MLP, which reads ``reads``, and the parts in which mass ends."""
        for kind, share in shares.others.items():
            if kind == "mlp":
                self._mlp(layer, queries, reads, target, share)
            else:
                self._add(kind, layer, self.codes.of(kind, layer, queries), target, share)

    def _target(self, kind: str, depth: int, queries: Ints, shares: Shares) -> Ints:
        codes = self.codes.of(kind, depth, queries)
        self.fallback.append(codes[shares.fallback])
        return codes

    def _mlp(self, layer: int, queries: Ints, reads: Ints, target: Ints, share: Doubles) -> None:
        """Add the MLP's part of ``target``, all of which comes from the state that it reads."""
        mlp = self.codes.of("mlp", layer, queries)
        drawn = share > self.spec.threshold
        inner = ("mlp", layer, reads[drawn], mlp[drawn], np.ones(int(drawn.sum())))
        if self.up:
            self.reach[mlp] = self.reach[reads]
            self._add(*inner, exact=False)
        self._add("mlp", layer, mlp, target, share)
        if not self.up:
            self._add(*inner)

    def _attention(self, layer: int, queries: Ints, target: Ints, shares: Shares) -> None:
        below = self.codes.of("block", layer, queries)
        self._add("residual", layer, below, target, shares.rest[0])
        for kind, share in (("bias", shares.bias), ("sink", shares.sink)):
            if share.any():
                self._add(kind, layer, self.codes.of(kind, layer, queries), target, share)
        if shares.heads.size:
            self._sources(layer, target, shares)

    def _sources(self, layer: int, target: Ints, shares: Shares) -> None:
        heads = shares.heads
        named = self.spec.per_head and not shares.averaged
        table = heads if named else heads.sum(0, keepdims=True)
        first = int(self.codes.of("block", layer, 0))
        keys = slice(first, first + table.shape[2])
        if self.up:
            self.reach[target] += heads.sum(0) @ self.reach[keys]
        weight = self.mass[keys] if self.up else np.ones(table.shape[2])
        drawn = strongest(table, weight, self.spec.top_k, self.spec.threshold)
        if self._widths_known is not None and self._widths_known.least > 0.0:
            self._leave_out(drawn, table, target, keys, self._widths_known)
        query, head, key = np.nonzero(drawn.transpose(1, 0, 2))
        number = head if named else np.full_like(head, -1)
        share = table[head, query, key]
        self._add("attention", layer, first + key, target[query], share, number, exact=False)

    def _leave_out(
        self, drawn: NDArray[np.bool_], table: Doubles, target: Ints, keys: slice, known: Widths
    ) -> None:
        """Carry the mass of attention links that are not among the largest, and draw the others.

        Args:
            drawn: [head, query, key] the links; those that are left out are set to False.
            table: [head, query, key] their shares.
            target: [query] nodes.
            keys: The nodes that they read.
            known: The widths of the links so far.
        """
        start = keys if self.up else target
        axis = (1, 0)[self.up]
        mass, reached = (np.expand_dims(of[start], axis) for of in (self.mass, known.reached))
        flow = np.where(drawn, table * mass, 0.0)
        drawn &= (flow >= known.least) & (reached >= known.least)
        flow[drawn] = 0.0
        self.mass[target if self.up else keys] += flow.sum((0, 2 if self.up else 1))

    def _add(
        self,
        kind: str,
        layer: int,
        source: Ints,
        target: Ints,
        share: Doubles,
        head: Ints | None = None,
        *,
        exact: bool = True,
    ) -> None:
        if self.up and exact:
            np.add.at(self.reach, target, self.reach[source] * share)
        drawn = share > self.spec.threshold
        if self.up:
            drawn &= self.mass[source] > 0.0
        if not drawn.any():
            return
        if not drawn.all():
            source, target, share = source[drawn], target[drawn], share[drawn]
            head = None if head is None else head[drawn]
        size = len(share)
        heads = np.full(size, -1) if head is None else head
        batch = LinkBatch(
            np.full(size, LINK[kind]), np.full(size, layer), heads, source, target, share,
            np.zeros(size),
        )  # fmt: skip
        self.add(batch)
        if self._widths_known is not None:
            self._widths_known.add(*self._from_and_to(batch), batch.flow)
        if self.spec.budget is not None and self.count > max(8 * self.spec.budget, 1 << 16):
            self.cut(self.spec.budget)

    def finish(self) -> Graph:
        """The graph, pruned to the budget."""
        _fit_budget(self)
        return _columns(self)
