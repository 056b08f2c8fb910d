"""Grow a flow graph step by step: which parts of a state become links, and which are drawn."""

from __future__ import annotations

import numpy as np

from analysis import flow_finish
from analysis.flow_codes import LINK, Part, Whole, strongest
from analysis.flow_shares import Shares
from analysis.flow_stages import Followed, Stage
from analysis.results import Graph


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
        flow_finish.within_budget(self)
        return flow_finish.columns(self)
