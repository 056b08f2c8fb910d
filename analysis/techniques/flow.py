"""The flow graph into one state, by walking back from it.

Only nodes that carry mass are looked at, so exact proximities cost what the
picture needs (design: 0.35 s instead of minutes at 256 tokens).
"""

from __future__ import annotations

import numpy as np
import torch

from analysis import progress
from analysis.capture import Trace
from analysis.errors import SpecError
from analysis.flow_graph import GraphBuilder
from analysis.flow_shares import SHARES, Shares, StepParts, attention_parts
from analysis.models.handle import Model
from analysis.parts import has_heads
from analysis.results import Graph
from analysis.specs import FlowSpec, resolve_index


@torch.no_grad()
def compute(model: Model, trace: Trace, spec: FlowSpec) -> Graph:
    """Where the state at (row, position) comes from.

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``.
        spec: Root, method and pruning. ``threshold`` keeps links whose share is above it;
            ``top_k`` the strongest attention links of each node; ``budget`` the links of
            largest flow.

    Returns:
        A Graph; shares are over all parts before pruning, and flow is what reaches a node by
        drawn links alone.

    Raises:
        SpecError: If the root does not exist, or the heads can't be told apart.
        CancelledError: If the caller's progress listener stops the work.
    """
    row = resolve_index("Row", spec.row, model.info.layers + 1)
    position = resolve_index("Position", spec.position, len(trace.tokens))
    builder = GraphBuilder(spec, row, position, len(trace.tokens))
    for layer in range(row - 1, -1, -1):
        _layer(model, trace, layer, spec, builder)
        progress.step(row - layer, row, "Following the flow back")
    return builder.finish()


def _layer(model: Model, trace: Trace, layer: int, spec: FlowSpec, builder: GraphBuilder) -> None:
    block = model.stream.blocks[layer]
    if block.heads and not has_heads(model, layer):
        raise SpecError(
            f"The heads of layer {layer} can't be told apart, so no flow can be drawn.",
            "Choose a row below that layer.",
        )
    shares = SHARES[spec.method]
    if model.info.parallel_blocks:
        for pos in builder.carrying("block", layer + 1):
            builder.parallel_step(layer, pos, _one_step(model, trace, layer, pos, shares, True))
        return
    for pos in builder.carrying("block", layer + 1):
        mlp, mid = trace.mlp_out[layer, pos], trace.resid[layer, pos] + trace.attn_out[layer, pos]
        pair = shares(
            StepParts(None, None, torch.from_numpy(np.stack([mid, mlp])),
                      torch.from_numpy(trace.resid[layer + 1, pos]))
        )  # fmt: skip
        builder.mlp_step(layer, pos, pair)
    for pos in builder.carrying("mid", layer):
        builder.attention_step(layer, pos, _one_step(model, trace, layer, pos, shares, False))


def _one_step(
    model: Model, trace: Trace, layer: int, pos: int, shares: object, parallel: bool
) -> Shares:
    """Shares of every part of a mid residual, or of a parallel block's output."""
    rest = [trace.resid[layer, pos]]
    whole = trace.resid[layer, pos] + trace.attn_out[layer, pos]
    if parallel:
        rest.append(trace.mlp_out[layer, pos])
        whole = trace.resid[layer + 1, pos]
    heads, bias, pattern = attention_parts(model, trace, layer, pos)
    parts = StepParts(
        heads, bias, torch.from_numpy(np.stack(rest)), torch.from_numpy(whole), pattern
    )
    result: Shares = shares(parts)  # type: ignore[operator]
    return result
