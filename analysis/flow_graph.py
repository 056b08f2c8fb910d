"""Collect nodes and links while the flow is followed, prune, and give columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.flow_codes import Codes, Part, Whole, strongest
from analysis.flow_shares import Shares
from analysis.results import LINK_KINDS, Graph
from analysis.specs import FlowSpec

_LINK = {kind: number for number, kind in enumerate(LINK_KINDS)}


@dataclass
class _Stage:
    """Links added together: by each, mass passes only after all links before have passed it."""

    kind: Whole
    layer: Whole
    head: Whole
    source: Whole
    target: Whole
    share: Part
    flow: Part

    def only(self, kept: NDArray[np.bool_]) -> _Stage:
        return _Stage(*(getattr(self, name)[kept] for name in _COLUMNS))


_COLUMNS = ("kind", "layer", "head", "source", "target", "share", "flow")


class GraphBuilder:
    """Grows a graph from its roots, down to the tokens or up to the last row.

    Stages come in an order in which all mass of a node is known before any link
    leads on from it, so one pass gives all flows.

    Args:
        spec: Pruning and direction.
        layers: Of the model.
        size: Positions.
        row: The roots' row.
        roots: Their positions.
    """

    def __init__(
        self, spec: FlowSpec, layers: int, size: int, row: int, roots: tuple[int, ...]
    ) -> None:
        self.spec, self.layers, self.row, self.roots = spec, layers, row, roots
        self.up = spec.direction == "up"
        self.codes = Codes(layers + 1, size)
        self.mass = self._start()
        #: Upwards: the root's part of each state by all links, drawn or not.
        self.reach = self.mass.copy()
        self.stages: list[_Stage] = []
        self.count = 0
        self.cut = False
        self.fallback: list[Whole] = []

    def _start(self) -> Part:
        mass = np.zeros(self.codes.count)
        mass[self.codes.of("block", self.row, np.array(self.roots))] = (
            1.0 if self.up else 1.0 / len(self.roots)
        )
        return mass

    def carrying(self, kind: str, depth: int) -> Whole:
        """Positions at which nodes of this kind and depth carry mass, ascending."""
        first = int(self.codes.of(kind, depth, 0))
        here: Whole = np.flatnonzero(self.mass[first : first + self.codes.size] > 0.0)
        return here

    # -- steps -----------------------------------------------------------------------------

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
        stage = _Stage(
            size + _LINK[kind], size + layer, heads, source[drawn], target[drawn], share[drawn],
            np.zeros(len(size)),
        )  # fmt: skip
        self._pass(stage)
        self.stages.append(stage)
        self.count += len(size)
        if self.spec.budget is not None and self.count > max(8 * self.spec.budget, 1 << 16):
            self._cut(self.spec.budget)

    def _pass(self, stage: _Stage) -> None:
        start, end = (stage.source, stage.target) if self.up else (stage.target, stage.source)
        stage.flow = self.mass[start] * stage.share
        np.add.at(self.mass, end, stage.flow)

    # -- pruning to a budget ---------------------------------------------------------------

    def _cut(self, budget: int) -> None:
        """Keep so many links of largest flow, the earlier of equal ones."""
        if self.count <= budget:
            return
        self.cut = True
        flows = np.concatenate([stage.flow for stage in self.stages])
        kept = np.zeros(len(flows), bool)
        kept[np.argsort(-flows, kind="stable")[:budget]] = True
        ends = np.cumsum([len(stage.flow) for stage in self.stages])[:-1]
        pieces = np.split(kept, ends)
        pairs = zip(self.stages, pieces, strict=True)
        self.stages = [stage.only(piece) for stage, piece in pairs if piece.any()]
        self.count = budget

    def _within_budget(self) -> None:
        """Cut for good, and follow the mass again by what is left."""
        if self.spec.budget is not None:
            self._cut(self.spec.budget)
        if not self.cut:
            return
        self.mass = self._start()
        stages, self.stages = self.stages, []
        for stage in stages:
            joined = self.mass[stage.source if self.up else stage.target] > 0.0
            left = stage.only(joined)
            self._pass(left)
            self.stages.append(left)

    # -- the graph -------------------------------------------------------------------------

    def finish(self) -> Graph:
        """Prune to the budget and give the graph in columns."""
        self._within_budget()
        empty = np.zeros(0, np.int64)
        links = {
            name: np.concatenate([empty, *(getattr(stage, name) for stage in self.stages)])
            for name in _COLUMNS
        }
        roots = self.codes.of("block", self.row, np.array(self.roots))
        nodes = self.codes.ordered(np.concatenate([links["source"], links["target"], roots]))
        place = np.zeros(self.codes.count, np.int64)
        place[nodes] = np.arange(len(nodes))
        kind, depth, pos = self.codes.split(nodes)
        fallback = np.intersect1d(np.concatenate([empty, *self.fallback]), nodes)
        return Graph(
            position=self.roots[0],
            row=self.row,
            method=self.spec.method,
            node_kind=kind,
            node_depth=depth,
            node_pos=pos,
            node_flow=self.mass[nodes].astype(np.float32),
            link_kind=links["kind"].astype(np.int64),
            link_layer=links["layer"].astype(np.int64),
            link_head=links["head"].astype(np.int64),
            link_source=place[links["source"].astype(np.int64)],
            link_target=place[links["target"].astype(np.int64)],
            link_share=links["share"].astype(np.float32),
            link_flow=links["flow"].astype(np.float32),
            hidden_share=self._hidden(),
            terminal_share=0.0 if self.up else self._ended(),
            fallback_nodes=place[fallback],
            direction=self.spec.direction,
            roots=self.roots,
        )

    def _ended(self) -> float:
        codes = [
            self.codes.of(kind, layer, np.arange(self.codes.size))
            for kind in ("bias", "sink")
            for layer in range(self.layers)
        ]
        return float(self.mass[np.concatenate(codes)].sum())

    def _hidden(self) -> float:
        positions = np.arange(self.codes.size)
        if self.up:
            last = self.codes.of("block", self.layers, positions)
            whole = float(self.reach[last].sum())
            drawn = float(self.mass[last].sum())
            return max(1.0 - drawn / whole, 0.0) if whole > 0.0 else 0.0
        arrived = float(self.mass[self.codes.of("block", 0, positions)].sum())
        return max(1.0 - arrived - self._ended(), 0.0)
