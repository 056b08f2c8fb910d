"""The states of a flow graph with their parts, for many positions of one layer at once.

Nothing here forms a vector for each head, source and query: those parts are
products of a weight and a vector that no query changes (``HeadParts.factors``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from analysis.errors import SpecError
from analysis.model.handle import Model
from analysis.model.readout import Readout
from analysis.tracing.capture import Trace
from analysis.tracing.heads import has_heads, head_parts


@dataclass(frozen=True)
class Attention:
    """What attention adds to the stream at some positions of one layer.

    Attributes:
        total: [q, d_model] all it adds.
        pattern: [head, q, key] attention weights; None in a layer without attention.
        bias: [q, d_model] what it adds from biases alone; None where that is nothing. In a layer
            without attention, all it adds: where that comes from can't be told.
        weights, vectors: [head, q, key], [head, key, d_model]; their products are the parts of
            each head and source. None where the method asked for none, or there are no heads.
    """

    total: Tensor
    pattern: Tensor | None
    bias: Tensor | None
    weights: Tensor | None = None
    vectors: Tensor | None = None


@dataclass(frozen=True)
class Step:
    """States of one kind at some positions of one layer.

    Attributes:
        whole: [q, d_model] the states: the sum of all parts.
        rest: [part, q, d_model] the residual first, then the MLP where it is a part.
        attention: Where attention is a part.
        readout: How the model reads states, for methods that decode.
    """

    whole: Tensor
    rest: Tensor
    readout: Readout
    attention: Attention | None = None


def block_step(model: Model, trace: Trace, layer: int, queries: Tensor) -> Step:
    """Outputs of a sequential block: the mid residual and the MLP."""
    residual, added, mlp = (
        torch.from_numpy(array[layer])[queries]
        for array in (trace.resid, trace.attn_out, trace.mlp_out)
    )
    whole = torch.from_numpy(trace.resid[layer + 1])[queries]
    return Step(whole, torch.stack([residual + added, mlp]), model.readout)


def attention_step(
    model: Model, trace: Trace, layer: int, queries: Tensor, *, vectors: bool
) -> Step:
    """Mid residuals, or a parallel block's outputs: the residual, attention, and there the MLP.

    Args:
        model: The model.
        trace: Its trace.
        layer: The block.
        queries: [q] positions, ascending.
        vectors: Whether the method looks at what each head reads from each source.

    Raises:
        SpecError: If it does, and the heads can't be told apart.
    """
    attention = _attention(model, trace, layer, queries, vectors)
    rest = [torch.from_numpy(trace.resid[layer])[queries]]
    whole = rest[0] + attention.total
    if model.info.parallel_blocks:
        rest.append(torch.from_numpy(trace.mlp_out[layer])[queries])
        whole = torch.from_numpy(trace.resid[layer + 1])[queries]
    return Step(whole, torch.stack(rest), model.readout, attention)


def _attention(model: Model, trace: Trace, layer: int, queries: Tensor, vectors: bool) -> Attention:
    total = torch.from_numpy(trace.attn_out[layer])[queries]
    if not model.stream.blocks[layer].heads:
        return Attention(total, None, total)
    pattern = torch.from_numpy(trace.pattern[layer])[:, queries, : int(queries[-1]) + 1]
    if not vectors:
        return Attention(total, pattern, None)
    if not has_heads(model, layer):
        raise SpecError(
            f"The heads of layer {layer} can't be told apart, so no flow can be drawn this way.",
            "Choose a row below that layer, or the method attention.",
        )
    parts = head_parts(model, trace, layer)
    bias = parts.bias[queries]
    weights, moved = parts.factors(queries)
    return Attention(total, pattern, bias if bool(bias.any()) else None, weights, moved)
