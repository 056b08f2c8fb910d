"""Grow a flow graph step by step, cut it to the budget, state what is hidden."""

from __future__ import annotations

import numpy as np

from analysis.contract.results import Floats
from analysis.flow_graph.links import COLUMNS, LINK, NODE, Followed, Part, Stage, Whole, strongest
from analysis.flow_graph.methods import Shares
from analysis.flow_graph.results import Graph

#: Shares up to this that no link carries are rounding.
_ROUNDING = 1e-6


def within_budget(flow: Followed) -> None:
    """Cut for good, and follow the mass again by what is left.

    What a node gets by links that were cut is one "other" link to it. Those count too, so as
    many of the largest links are kept as leave room for them.
    """
    budget = flow.spec.budget
    if budget is None or not flow.stages:
        return
    flow.cut(budget)
    known = flow.stages
    low, high = 0, budget  # links kept: without any, one "other" link to each root
    while low < high:
        middle = (low + high + 1) // 2
        fits = flow.follow(known, middle) + len(_others(flow).flow) <= budget
        low, high = (middle, high) if fits else (low, middle - 1)
    kept = flow.follow(known, low)
    others = _others(flow)
    others = others.only(np.arange(len(others.flow)) < budget - kept)
    if len(others.flow):
        flow.stages.append(others)
        # Upwards flows are parts of different states' masses, which have no sum.
        joined = np.maximum if flow.up else np.add
        joined.at(flow.mass, others.source, others.flow)


def _others(flow: Followed) -> Stage:
    """A link to each node for all that enters it by no kept link: so in-shares sum to 1.

    Downwards it carries the rest of the node's mass. Upwards it carries what the node has from
    the root by no drawn way: by links that were cut, to it or to what it is made from.
    """
    entered, share = np.zeros(flow.codes.count), np.zeros(flow.codes.count)
    for stage in flow.stages:
        np.add.at(entered, stage.target, stage.flow)
        np.add.at(share, stage.target, stage.share)
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
    return Stage(size + LINK["other"], layer, size - 1, source, nodes, rest[nodes], carried[nodes])


def columns(flow: Followed) -> Graph:
    """The graph: nodes and links, numbered, with what is hidden and where mass ends."""
    empty = np.zeros(0, np.int64)
    links = {
        name: np.concatenate([empty, *(getattr(stage, name) for stage in flow.stages)])
        for name in COLUMNS
    }
    roots = flow.codes.of("block", flow.row, np.array(flow.roots))
    nodes = flow.codes.ordered(np.concatenate([links["source"], links["target"], roots]))
    place = np.zeros(flow.codes.count, np.int64)
    place[nodes] = np.arange(len(nodes))
    kind, depth, pos = flow.codes.split(nodes)
    fallback = np.intersect1d(np.concatenate([empty, *flow.fallback]), nodes)
    return Graph(
        position=flow.roots[0],
        row=flow.row,
        method=flow.spec.method,
        node_kind=kind,
        node_depth=depth,
        node_pos=pos,
        node_flow=flow.mass[nodes].astype(np.float32),
        link_kind=links["kind"].astype(np.int64),
        link_layer=links["layer"].astype(np.int64),
        link_head=links["head"].astype(np.int64),
        link_source=place[links["source"].astype(np.int64)],
        link_target=place[links["target"].astype(np.int64)],
        link_share=links["share"].astype(np.float32),
        link_flow=links["flow"].astype(np.float32),
        hidden_share=_hidden(flow),
        terminal_share=0.0 if flow.up else _ended(flow),
        fallback_nodes=place[fallback],
        direction=flow.spec.direction,
        roots=flow.roots,
        node_whole=_whole(flow, nodes),
    )


def _whole(flow: Followed, nodes: Whole) -> Floats:
    """The root's part of each node by all links; downwards that is its flow."""
    found: Floats = (flow.reach if flow.up else flow.mass)[nodes].astype(np.float32)
    return found


def _ended(flow: Followed) -> float:
    codes = [
        flow.codes.of(kind, layer, np.arange(flow.codes.size))
        for kind in ("bias", "sink")
        for layer in range(flow.layers)
    ]
    return float(flow.mass[np.concatenate(codes)].sum())


def _hidden(flow: Followed) -> float:
    positions = np.arange(flow.codes.size)
    if flow.up:
        last = flow.codes.of("block", flow.layers, positions)
        whole = float(flow.reach[last].sum())
        drawn = float(flow.mass[last].sum())
        return max(1.0 - drawn / whole, 0.0) if whole > 0.0 else 0.0
    arrived = float(flow.mass[flow.codes.of("block", 0, positions)].sum())
    return max(1.0 - arrived - _ended(flow), 0.0)


class GraphBuilder(Followed):
    """Grows a graph from its roots, down to the tokens or up to the last row."""

    def block_step(self, layer: int, queries: Whole, shares: Shares) -> None:
        """Blocks' outputs: their MLPs, and the mid residuals that both come from."""
        mid = self.codes.of("mid", layer, queries)
        target = self._target("block", layer + 1, queries, shares)
        self._add("residual", layer, mid, target, shares.rest[0])
        self._mlp(layer, queries, mid, target, shares.rest[1])

    def mid_step(self, layer: int, queries: Whole, shares: Shares) -> None:
        """Mid residuals: heads and sources, biases, and the residual."""
        self._attention(layer, queries, self._target("mid", layer, queries, shares), shares)

    def parallel_step(self, layer: int, queries: Whole, shares: Shares) -> None:
        """Parallel blocks' outputs: all parts at once; the MLP reads the block's input."""
        target = self._target("block", layer + 1, queries, shares)
        self._attention(layer, queries, target, shares)
        below = self.codes.of("block", layer, queries)
        self._mlp(layer, queries, below, target, shares.rest[1])

    def _target(self, kind: str, depth: int, queries: Whole, shares: Shares) -> Whole:
        codes = self.codes.of(kind, depth, queries)
        self.fallback.append(codes[shares.fallback])
        return codes

    def _mlp(self, layer: int, queries: Whole, reads: Whole, target: Whole, share: Part) -> None:
        """The MLP's part of ``target``, and all of it from the state that the MLP reads."""
        mlp = self.codes.of("mlp", layer, queries)
        drawn = share > self.spec.threshold
        inner = ("mlp", layer, reads[drawn], mlp[drawn], np.ones(int(drawn.sum())))
        if self.up:
            self.reach[mlp] = self.reach[reads]
            self._add(*inner, exact=False)
        self._add("mlp", layer, mlp, target, share)
        if not self.up:
            self._add(*inner)

    def _attention(self, layer: int, queries: Whole, target: Whole, shares: Shares) -> None:
        below = self.codes.of("block", layer, queries)
        self._add("residual", layer, below, target, shares.rest[0])
        for kind, share in (("bias", shares.bias), ("sink", shares.sink)):
            if share.any():
                self._add(kind, layer, self.codes.of(kind, layer, queries), target, share)
        if shares.heads.size:
            self._sources(layer, target, shares)

    def _sources(self, layer: int, target: Whole, shares: Shares) -> None:
        heads = shares.heads
        named = self.spec.per_head and not shares.averaged
        table = heads if named else heads.sum(0, keepdims=True)
        first = int(self.codes.of("block", layer, 0))
        keys = slice(first, first + table.shape[2])
        if self.up:
            self.reach[target] += heads.sum(0) @ self.reach[keys]
        weight = self.mass[keys] if self.up else np.ones(table.shape[2])
        head, query, key = strongest(table, weight, self.spec.top_k, self.spec.threshold)
        number = head if named else np.full_like(head, -1)
        share = table[head, query, key]
        self._add("attention", layer, first + key, target[query], share, number, exact=False)

    def _add(
        self,
        kind: str,
        layer: int,
        source: Whole,
        target: Whole,
        share: Part,
        head: Whole | None = None,
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
        size = np.full(int(drawn.sum()), 0)
        heads = size - 1 if head is None else head[drawn]
        stage = Stage(
            size + LINK[kind], size + layer, heads, source[drawn], target[drawn], share[drawn],
            np.zeros(len(size)),
        )  # fmt: skip
        self.add(stage)
        if self.spec.budget is not None and self.count > max(8 * self.spec.budget, 1 << 16):
            self.cut(self.spec.budget)

    def finish(self) -> Graph:
        """Prune to the budget and give the graph in columns."""
        within_budget(self)
        return columns(self)
