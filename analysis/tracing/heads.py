"""What each head reads from each position, as vectors in the residual stream."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from analysis.contract.results import Floats
from analysis.contract.specs import resolve_index
from analysis.errors import SpecError
from analysis.model.handle import Model
from analysis.model.norms import NormForm, identity_norm, norm_form
from analysis.model.stream import Block
from analysis.tracing.capture import Trace

#: Bytes of moved values that a trace keeps for the next caller.
KEPT_BYTES = 12 << 20


@dataclass(frozen=True)
class HeadParts:
    """Attention's parts in one layer.

    Attributes:
        pattern: [head, query, key].
        moved: [head, key, d_model] each position's value through its head's part of W_O.
        post: What follows the projection.
        raw: [query, d_model] the projection's output, for the post-norm's statistics; empty
            where no norm follows.
        bias: [query, d_model] what the stream gets from biases alone.
        scale: The multiplier of attention's increment.
    """

    pattern: Tensor
    moved: Tensor
    post: NormForm
    raw: Tensor
    bias: Tensor
    scale: float

    def through(self, part: Tensor, query: int) -> Tensor:
        """Parts [..., d_model] of the output at ``query`` as the stream gets them."""
        if self.post.kind == "none":
            return part * self.scale if self.scale != 1.0 else part
        return self.post.frozen(part, self.raw[query]) * self.scale

    def sources(self, query: int) -> Tensor:
        """[head, key 0..query, d_model] the vector of each head and source position."""
        weights = self.pattern[:, query, : query + 1, None]
        return self.through(weights * self.moved[:, : query + 1], query)

    def factors(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Weights [head, q, key] and vectors [head, key, d_model] whose products are the parts.

        What a head reads from a position is the same vector for every query up to a factor: the
        attention weight, and the post-norm's frozen scale where there is one. So norms and
        products with any direction need no array over head, query, key and d_model.

        Args:
            queries: [q] positions, ascending; keys end at the last of them.
        """
        keys = int(queries[-1]) + 1
        weights, vectors = self.pattern[:, queries, :keys], self.moved[:, :keys]
        if self.post.kind != "none":
            weights = weights * self.post.inverse_root(self.raw[queries])[None]
            vectors = self.post.centred(vectors) * self.post.scale
        return weights, vectors if self.scale == 1.0 else vectors * self.scale

    def heads(self) -> Tensor:
        """[head, query, d_model] what each head adds."""
        mixed = self.pattern @ self.moved
        if self.post.kind == "none":
            return mixed * self.scale
        return self.post.frozen(mixed, self.raw) * self.scale


def has_heads(model: Model, layer: int) -> bool:
    """Whether the layer's attention can be split into heads."""
    return model.stream.blocks[layer].projection is not None


def projection_weight(block: Block, width: int) -> tuple[Tensor, Tensor | None]:
    """W_O as [head * d_head, d_model] and b_O [d_model], float32, whatever the module is."""
    module = block.projection
    assert module is not None  # noqa: S101 - callers ask has_heads first
    if type(module) is nn.Linear:
        bias = None if module.bias is None else module.bias.detach().float()
        return module.weight.detach().T.float(), bias
    if type(module) is Conv1D:
        return module.weight.detach().float(), module.bias.detach().float()
    # Quantised or adapted: ask the module itself, one unit vector at a time.
    like = next(module.parameters())
    dtype = like.dtype if like.is_floating_point() else torch.float32
    bias = module(torch.zeros(1, width, dtype=dtype, device=like.device))[0].float()
    rows = module(torch.eye(width, dtype=dtype, device=like.device)).float() - bias
    return rows, bias if bool(bias.any()) else None


@torch.no_grad()
def head_parts(model: Model, trace: Trace, layer: int) -> HeadParts:
    """The parts of one layer's attention output, kept on the trace for the next caller.

    Raises:
        SpecError: If the layer has no attention, or its heads can't be told apart.
    """
    cached = trace.scratch.get(("parts", layer))
    if cached is not None:
        kept: HeadParts = cached
        return kept
    block = model.stream.blocks[layer]
    if not has_heads(model, layer):
        raise SpecError(
            f"The attention of layer {layer} can't be split into heads.",
            "Look at its attention output as a whole.",
        )
    parts = _head_parts(model, trace, layer, block)
    _keep(trace, layer, parts)
    return parts


def _keep(trace: Trace, layer: int, parts: HeadParts) -> None:
    """Keep a layer's parts for the next caller, and let the oldest go beyond ``KEPT_BYTES``.

    Of 256 tokens of a small model all layers would be as large as the whole trace.
    """
    most = max(KEPT_BYTES // max(parts.moved.nbytes, 1), 1)
    kept = [key for key in trace.scratch if key[0] == "parts"]
    for key in kept[: max(len(kept) + 1 - most, 0)]:
        trace.scratch.pop(key, None)
    trace.scratch["parts", layer] = parts


def _head_parts(model: Model, trace: Trace, layer: int, block: Block) -> HeadParts:
    pattern = torch.from_numpy(trace.pattern[layer])
    value = torch.from_numpy(trace.value[layer])
    weight, bias = projection_weight(block, block.heads * block.d_head)
    weight, size = weight.cpu(), value.shape[1]
    value = value.repeat_interleave(block.heads // block.kv_heads, dim=0)
    moved = torch.bmm(value, weight.view(block.heads, block.d_head, -1))
    offset = torch.zeros(size, moved.shape[-1])
    if bias is not None:
        offset = offset + bias.cpu()
    post, raw = identity_norm(model.info.d_model), offset[:0]
    if block.post_norm is not None:
        post = norm_form(block.post_norm, model.info.d_model) or post
        mixed = (pattern @ value).transpose(0, 1).reshape(size, -1)
        raw = mixed @ weight + offset
        offset = post.frozen(offset, raw) + post.bias
    offset = offset * block.attention_scale
    return HeadParts(pattern, moved, post, raw, offset, block.attention_scale)


def head_vectors(model: Model, trace: Trace, layer: int, head: int | None = None) -> Tensor:
    """What each head adds to the residual stream.

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``.
        layer: Which block.
        head: One head, or None for all.

    Returns:
        [head, pos, d_model], or [pos, d_model] for one head. With the biases they sum to
        ``trace.attn_out[layer]``.
    """
    outputs = head_parts(model, trace, layer).heads()
    return outputs if head is None else outputs[head]


def head_output(model: Model, trace: Trace, layer: int, head: int | None = None) -> Floats:
    """What each head adds to the residual stream, [head, pos, d_model], or [pos, d_model] of one.

    Through the output projection, the post-norm with its scale frozen, and any multiplier;
    heads and bias sum to ``trace.attn_out[layer]``.

    Raises:
        SpecError: If the layer or head does not exist, or its heads can't be told apart.
    """
    layer = resolve_index("Layer", layer, model.info.layers)
    if head is not None:
        head = resolve_index("Head", head, model.info.heads)
    outputs: Floats = head_vectors(model, trace, layer, head).numpy().astype(np.float32)
    return outputs


def attention_bias(model: Model, trace: Trace, layer: int) -> Floats:
    """[pos, d_model] what a layer's attention adds from biases alone."""
    layer = resolve_index("Layer", layer, model.info.layers)
    bias: Floats = head_parts(model, trace, layer).bias.numpy().astype(np.float32)
    return bias
