"""What each head moves from each position into the residual stream, and the patterns."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from analysis.contract.specs import Floats, resolve_index
from analysis.errors import SpecError
from analysis.model.handle import Model
from analysis.model.module_io import linear_weights
from analysis.model.readout import NormForm, identity_norm, norm_form
from analysis.model.stream import Block
from analysis.tracing.capture import Trace
from analysis.tracing.interventions import Ablate, index
from analysis.tracing.specs import PatternResult, PatternSpec

#: Bytes of moved values that are cached on a trace.
CACHED_BYTES = 12 << 20


@dataclass(frozen=True)
class HeadParts:
    """Attention's parts in one layer, as they are in the run, interventions included.

    Attributes:
        pattern: [head, query, key]; zero for a head that is ablated at the query.
        moved: [head, key, d_model] each position's value times its head's part of W_O.
        post: The norm after the projection; ``identity_norm`` if there is none.
        raw: [query, d_model] the projection's output, which gives the post-norm its statistics;
            empty if there is no post-norm.
        bias: [query, d_model] what the biases alone add to the stream; the whole output of
            attention at a query where it is ablated.
        scale: The multiplier of attention's output.
        mean: [head, query, d_model] outputs of heads that are ablated to their mean, times W_O,
            else zero: parts without a source position. None if there are none.
    """

    pattern: Tensor
    moved: Tensor
    post: NormForm
    raw: Tensor
    bias: Tensor
    scale: float
    mean: Tensor | None = None

    def through(self, part: Tensor, query: int) -> Tensor:
        """Parts [..., d_model] of the projection's output at ``query``, as added to the stream."""
        if self.post.kind == "none":
            return part * self.scale if self.scale != 1.0 else part
        return self.post.frozen(part, self.raw[query]) * self.scale

    def sources(self, query: int) -> Tensor:
        """[head, key 0..query, d_model] the vector of each head and source position."""
        weights = self.pattern[:, query, : query + 1, None]
        return self.through(weights * self.moved[:, : query + 1], query)

    def sourceless(self, queries: Tensor) -> Tensor:
        """[q, d_model] the part that no head moves from a position: biases and ablated outputs."""
        bias = self.bias[queries]
        if self.mean is None:
            return bias
        return bias + torch.stack([self.through(self.mean[:, q].sum(0), int(q)) for q in queries])

    def factors(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Weights [head, q, key] and vectors [head, key, d_model] whose products are the parts.

        What a head moves from a position is the same vector for every query up to a factor: the
        attention weight, times the post-norm's frozen scale if there is one. Norms and products
        with a direction therefore need no array over head, query, key and d_model.

        Args:
            queries: [q] positions, ascending; keys end at the last of them.
        """
        keys = int(queries[-1]) + 1
        weights, vectors = self.pattern[:, queries, :keys], self.moved[:, :keys]
        if self.post.kind != "none":
            weights = weights * self.post.inverse_root(self.raw[queries])[None]
            vectors = self.post.centred(vectors) * self.post.scale
        return weights, vectors if self.scale == 1.0 else vectors * self.scale

    def at(self, query: int) -> Tensor:
        """[head, d_model] what each head adds at one query."""
        mixed = (self.pattern[:, query, None] @ self.moved)[:, 0]
        return self.through(mixed if self.mean is None else mixed + self.mean[:, query], query)

    def heads(self) -> Tensor:
        """[head, query, d_model] what each head adds."""
        mixed = self.pattern @ self.moved
        mixed = mixed if self.mean is None else mixed + self.mean
        if self.post.kind == "none":
            return mixed * self.scale
        return self.post.frozen(mixed, self.raw) * self.scale


def has_heads(model: Model, layer: int) -> bool:
    """Whether the layer's attention can be split into heads."""
    return model.stream.blocks[layer].projection is not None


@torch.no_grad()
def head_parts(model: Model, trace: Trace, layer: int) -> HeadParts:
    """The parts of one layer's attention output, cached on the trace.

    Raises:
        SpecError: If the layer has no attention, or its output can't be split into heads.
    """
    trace.require_model(model)
    cached: HeadParts | None = trace.scratch.get(("parts", layer))
    if cached is not None:
        return cached
    block = model.stream.blocks[layer]
    if not has_heads(model, layer):
        raise SpecError(
            f"The attention of layer {layer} can't be split into heads.",
            "Use the attention output as a whole.",
        )
    parts = _head_parts(model, trace, layer, block)
    _cache(trace, layer, parts)
    return parts


def _cache(trace: Trace, layer: int, parts: HeadParts) -> None:
    """Cache a layer's parts, and drop the oldest beyond ``CACHED_BYTES``.

    With 256 tokens of a small model, the parts of all layers are as large as the whole trace.
    """
    most = max(CACHED_BYTES // max(parts.moved.nbytes, 1), 1)
    cached = [key for key in trace.scratch if key[0] == "parts"]
    for key in cached[: max(len(cached) + 1 - most, 0)]:
        trace.scratch.pop(key, None)
    trace.scratch["parts", layer] = parts


def _head_parts(model: Model, trace: Trace, layer: int, block: Block) -> HeadParts:
    pattern = torch.from_numpy(trace.pattern_of(layer))
    value = torch.from_numpy(trace.value_of(layer))
    weight, bias = linear_weights(block.projection, block.heads * block.d_head)
    size = value.shape[1]
    value = value.repeat_interleave(block.heads // block.kv_heads, dim=0)
    by_head = weight.view(block.heads, block.d_head, -1)
    moved = torch.bmm(value, by_head)
    mixed = _projection_input(trace, layer)
    offset = bias.repeat(size, 1)
    post, raw = identity_norm(model.info.d_model), offset[:0]
    if block.post_norm is not None:
        post = norm_form(block.post_norm, model.info.d_model) or post
        read = (pattern @ value).transpose(0, 1).reshape(size, -1) if mixed is None else mixed
        raw = read @ weight + offset
        offset = post.frozen(offset, raw) + post.bias
    offset = offset * block.attention_scale
    parts = HeadParts(pattern, moved, post, raw, offset, block.attention_scale)
    ablations = _ablations(trace, layer)
    if not ablations:
        return parts
    heads, whole = _ablated_queries(ablations, block.heads, size)
    mean = None
    if mixed is not None and any(item.value == "mean" for item in ablations):
        own = mixed.view(size, block.heads, -1).transpose(0, 1) @ by_head
        mean = own * (heads & ~whole)[..., None]
    return replace(
        parts,
        pattern=effective_pattern(trace, layer),
        bias=torch.where(whole[:, None], torch.from_numpy(trace.attn_out[layer]), parts.bias),
        mean=mean,
    )


def effective_pattern(trace: Trace, layer: int) -> Tensor:
    """[head, query, key] the pattern; zero for a head that is ablated at the query."""
    pattern = torch.from_numpy(trace.pattern_of(layer))
    ablations = _ablations(trace, layer)
    if not ablations:
        return pattern
    heads, whole = _ablated_queries(ablations, len(pattern), pattern.shape[1])
    return pattern.masked_fill((heads | whole)[..., None], 0.0)


def has_mean_heads(trace: Trace, layer: int) -> bool:
    """Whether a head of the layer is ablated to its mean: an output without a source position."""
    return any(item.head is not None and item.value == "mean" for item in _ablations(trace, layer))


def _ablations(trace: Trace, layer: int) -> list[Ablate]:
    """The ablations of a layer's heads and attention output."""
    items = [item for item in trace.interventions if isinstance(item, Ablate)]
    return [item for item in items if item.layer == layer and item.component != "mlp_output"]


def _ablated_queries(ablations: list[Ablate], heads: int, size: int) -> tuple[Tensor, Tensor]:
    """[head, query] which heads are ablated, and [query] where the whole output is."""
    chosen = torch.zeros(heads, size, dtype=torch.bool)
    whole = torch.zeros(size, dtype=torch.bool)
    for item in ablations:
        if item.head is None:
            whole[index(item)] = True
        else:
            chosen[item.head, index(item)] = True
    return chosen, whole


def _projection_input(trace: Trace, layer: int) -> Tensor | None:
    """[pos, head * d_head] the input of the output projection, if a head is ablated."""
    found = trace.head_inputs.get(layer)
    return None if found is None else torch.from_numpy(found)


def head_vectors(model: Model, trace: Trace, layer: int, head: int | None = None) -> Tensor:
    """What each head adds to the residual stream, as a tensor; see ``head_output``."""
    outputs = head_parts(model, trace, layer).heads()
    return outputs if head is None else outputs[head]


def head_output(model: Model, trace: Trace, layer: int, head: int | None = None) -> Floats:
    """What each head adds to the residual stream.

    Each head's part goes through the output projection, the post-norm with its scale frozen, and
    the multiplier. Heads and bias sum to ``trace.attn_out[layer]``.

    Args:
        model: The model that made the trace.
        trace: From ``analysis.trace``.
        layer: Which block.
        head: One head, or None for all.

    Returns:
        [head, pos, d_model], or [pos, d_model] for one head.

    Raises:
        SpecError: If the layer or head does not exist, or the layer can't be split into heads.
    """
    layer = resolve_index("Layer", layer, model.info.layers)
    if head is not None:
        head = model.head_index(layer, head)
    outputs: Floats = head_vectors(model, trace, layer, head).numpy().astype(np.float32)
    return outputs


def attention_bias(model: Model, trace: Trace, layer: int) -> Floats:
    """[pos, d_model] what the biases of a layer's attention add to the residual stream."""
    layer = resolve_index("Layer", layer, model.info.layers)
    bias: Floats = head_parts(model, trace, layer).bias.numpy().astype(np.float32)
    return bias


@torch.no_grad()
def attention_pattern(model: Model, trace: Trace, spec: PatternSpec) -> PatternResult:
    """Patterns [head, query, key] of one layer and the norm of each head's output.

    A head's contribution is the L2 norm of what it adds to the residual stream
    (Kobayashi et al. 2020, arXiv 2004.10102, summed over source positions as vectors).

    Raises:
        SpecError: If the layer does not exist.
    """
    trace.require_model(model)
    layer = resolve_index("Layer", spec.layer, model.info.layers)
    pattern = trace.pattern_of(layer)
    if has_heads(model, layer):
        norms = head_vectors(model, trace, layer).norm(dim=-1).numpy()
    else:
        norms = np.full(pattern.shape[:2], np.nan, np.float32)
    total = np.maximum(norms.sum(0, keepdims=True), 1e-30)
    return PatternResult(
        layer,
        pattern,
        trace.sink_of(layer),
        norms.astype(np.float32),
        (norms / total).astype(np.float32),
    )
