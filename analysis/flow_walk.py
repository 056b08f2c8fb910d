"""Follow a state's mass by a method's shares, down to the tokens or up from one of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from analysis import progress
from analysis.capture import Trace
from analysis.errors import SpecError
from analysis.flow_graph import GraphBuilder
from analysis.flow_shares import METHODS, Shares
from analysis.flow_steps import attention_step, block_step
from analysis.models.handle import Model
from analysis.results import Graph
from analysis.sinks import Hiding, hiding
from analysis.specs import FlowSpec, resolve_index

#: Parts (heads times positions times keys) held at once.
_CHUNK = 1 << 18


def root_positions(spec: FlowSpec, size: int) -> tuple[int, ...]:
    """The roots' positions from the start, each once.

    Raises:
        SpecError: If one does not exist or is named twice.
    """
    given = (spec.position,) if isinstance(spec.position, int) else spec.position
    roots = tuple(sorted(resolve_index("Position", pos, size) for pos in given))
    if len(set(roots)) < len(roots):
        raise SpecError("A root position is named twice.", "Name each once.")
    return roots


@torch.no_grad()
def walk(model: Model, trace: Trace, spec: FlowSpec) -> Graph:
    """The graph of a spec whose method shares states out (all but "signed").

    Raises:
        SpecError: If a root does not exist, or the heads can't be told apart.
        CancelledError: If the caller's progress listener stops the work.
    """
    layers, size = model.info.layers, len(trace.tokens)
    row = resolve_index("Row", spec.row, layers + 1)
    roots = root_positions(spec, size)
    builder = GraphBuilder(spec, layers, size, row, roots)
    sharing = _Sharing(model, trace, spec, hiding(trace, spec, roots))
    if spec.direction == "up":
        _up(sharing, builder)
    else:
        _down(sharing, builder)
    hidden = sharing.hiding
    return replace(
        builder.finish(),
        hidden_positions=hidden.hidden,
        sink_positions=hidden.folded,
        reweighted=bool(hidden.hidden) and hidden.reweight,
    )


@dataclass(frozen=True)
class _Sharing:
    """Shares of any states of one run by one method."""

    model: Model
    trace: Trace
    spec: FlowSpec
    hiding: Hiding

    def blocks(self, layer: int, queries: NDArray[np.int64]) -> Shares:
        """Of sequential blocks' outputs."""
        step = block_step(self.model, self.trace, layer, torch.from_numpy(queries))
        return METHODS[self.spec.method].divide(step)

    def attention(self, layer: int, queries: NDArray[np.int64]) -> Shares:
        """Of mid residuals, or of parallel blocks' outputs."""
        method = METHODS[self.spec.method]
        where = torch.from_numpy(queries)
        step = attention_step(self.model, self.trace, layer, where, vectors=method.vectors)
        return self.hiding.applied(method.divide(step), queries)

    def chunks(self, queries: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """The positions in pieces that fit in memory."""
        if not len(queries):
            return
        wide = max(self.model.info.heads, 1) * (int(queries[-1]) + 1)
        pieces = -(-len(queries) * wide // _CHUNK)
        yield from np.array_split(queries, max(min(pieces, len(queries)), 1))


def _pass_on(done: int, total: int, label: str) -> None:
    """Tell how far it is, and let a click go first: a comparison walks once for every method."""
    progress.step(done, total, label)
    progress.pause()


def _down(sharing: _Sharing, builder: GraphBuilder) -> None:
    parallel = sharing.model.info.parallel_blocks
    for layer in range(builder.row - 1, -1, -1):
        done = builder.row - 1 - layer
        _pass_on(done, builder.row, "Following the flow back")
        for queries in sharing.chunks(builder.carrying("block", layer + 1)):
            if parallel:
                builder.parallel_step(layer, queries, sharing.attention(layer, queries))
            else:
                builder.block_step(layer, queries, sharing.blocks(layer, queries))
            _pass_on(done, builder.row, "Following the flow back")
        if not parallel:
            for queries in sharing.chunks(builder.carrying("mid", layer)):
                builder.mid_step(layer, queries, sharing.attention(layer, queries))
                _pass_on(done, builder.row, "Following the flow back")
    _pass_on(builder.row, max(builder.row, 1), "Following the flow back")


def _up(sharing: _Sharing, builder: GraphBuilder) -> None:
    """Every later position may be reached, so all of their shares are needed."""
    layers, start = builder.layers, builder.row
    if start == layers:
        raise SpecError(
            "Nothing lies above the last row.", "Start at a lower one, such as row 0, the tokens."
        )
    later = np.arange(min(builder.roots), builder.codes.size)
    for layer in range(start, layers):
        _pass_on(layer - start, layers - start, "Following the flow up")
        for queries in sharing.chunks(later):
            shares = sharing.attention(layer, queries)
            if sharing.model.info.parallel_blocks:
                builder.parallel_step(layer, queries, shares)
            else:
                builder.mid_step(layer, queries, shares)
                builder.block_step(layer, queries, sharing.blocks(layer, queries))
    _pass_on(layers - start, layers - start, "Following the flow up")
