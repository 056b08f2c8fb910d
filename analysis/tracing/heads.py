"""What each head moves from each position into the residual stream, and the patterns."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from analysis.contract.specs import NO_ATTENTION, Floats, resolve_index
from analysis.errors import SpecError
from analysis.model.handle import Model
from analysis.model.readout import NormForm, identity_norm, norm_form
from analysis.model.stream import Block, linear_weights
from analysis.tracing.capture import Trace
from analysis.tracing.interventions import Ablate
from analysis.tracing.specs import PatternResult, PatternSpec
from analysis.tracing.vectors import index

#: Components whose ablation changes attention.
_ATTENTION = ("attention_output", "head_output")
#: Bytes of moved values that are cached on a trace.
CACHED_BYTES = 12 << 20


@dataclass(frozen=True)
class Gate:
    """Factors between the heads' outputs and the output projection.

    Attributes:
        factors: [query, head, d_head].
        value: [head, key, d_head] the values that the heads mix.
        matrix: [head, d_head, d_model] each head's part of W_O.
    """

    factors: Tensor
    value: Tensor
    matrix: Tensor

    def moved(self, query: int) -> Tensor:
        """[head, key 0..query, d_model] values times the gate of one query, times W_O."""
        gated = self.value[:, : query + 1] * self.factors[query][:, None]
        return torch.bmm(gated, self.matrix)


@dataclass(frozen=True)
class HeadParts:
    """Attention's parts in one layer, as they are in the run, interventions included.

    Attributes:
        pattern: [head, query, key]; zero for a head that is ablated at the query; times the gate,
            if that is one number for each query and head.
        moved: [head, key, d_model] each position's value times its head's part of W_O; empty if a
            gate makes it different for every query.
        post: The norm after the projection; ``identity_norm`` if there is none.
        raw: [query, d_model] the projection's output, which gives the post-norm its statistics;
            empty if there is no post-norm.
        bias: [query, d_model] what the biases alone add to the stream; the whole output of
            attention at a query where it is ablated.
        scale: The multiplier of attention's output.
        mean: [head, query, d_model] outputs of heads that are ablated to their mean or come from
            another prompt, times W_O, else zero: parts without a source position. None if there
            are none.
        gate: The gate, if it differs between the coordinates of a head; else None.
    """

    pattern: Tensor
    moved: Tensor
    post: NormForm
    raw: Tensor
    bias: Tensor
    scale: float | Tensor
    mean: Tensor | None = None
    gate: Gate | None = None

    def through(self, part: Tensor, query: int) -> Tensor:
        """Parts [..., d_model] of the projection's output at ``query``, as added to the stream."""
        if self.post.kind == "none":
            return _times(part, self.scale)
        return self.post.frozen(part, self.raw[query]) * self.scale

    def sources(self, query: int) -> Tensor:
        """[head, key 0..query, d_model] the vector of each head and source position."""
        weights = self.pattern[:, query, : query + 1, None]
        moved = self.moved[:, : query + 1] if self.gate is None else self.gate.moved(query)
        return self.through(weights * moved, query)

    def sourceless(self, queries: Tensor) -> Tensor:
        """[q, d_model] the part that no head moves from a position: biases and ablated outputs."""
        bias = self.bias[queries]
        if self.mean is None:
            return bias
        return bias + torch.stack([self.through(self.mean[:, q].sum(0), int(q)) for q in queries])

    def factors(self, queries: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Weights [head, q, key] and vectors [head, key, d_model] whose products are the parts.

        What a head moves from a position is the same vector for every query up to a factor: the
        attention weight, times the post-norm's frozen scale if there is one. Norms and products
        with a direction therefore need no array over head, query, key and d_model. Only a gate for
        each coordinate makes the vectors different for every query; there, one pair is for one
        query.

        Args:
            queries: [q] positions, ascending; keys end at the last of them.

        Returns:
            Pairs of weights and vectors, for successive queries.
        """
        keys = int(queries[-1]) + 1
        if self.gate is None:
            return [self._factors(queries, self.moved[:, :keys], keys)]
        pairs = []
        for query in queries.tolist():
            moved = self.gate.moved(query)
            moved = torch.nn.functional.pad(moved, (0, 0, 0, keys - moved.shape[1]))
            pairs.append(self._factors(torch.tensor([query]), moved, keys))
        return pairs

    def _factors(self, queries: Tensor, vectors: Tensor, keys: int) -> tuple[Tensor, Tensor]:
        weights = self.pattern[:, queries, :keys]
        if self.post.kind != "none":
            weights = weights * self.post.inverse_root(self.raw[queries])[None]
            vectors = self.post.centred(vectors) * self.post.scale
        return weights, _times(vectors, self.scale)

    def at(self, query: int) -> Tensor:
        """[head, d_model] what each head adds at one query."""
        weights = self.pattern[:, query, None, : query + 1]
        moved = self.moved[:, : query + 1] if self.gate is None else self.gate.moved(query)
        mixed = (weights @ moved)[:, 0]
        return self.through(mixed if self.mean is None else mixed + self.mean[:, query], query)

    def heads(self) -> Tensor:
        """[head, query, d_model] what each head adds."""
        if self.gate is None:
            mixed = self.pattern @ self.moved
        else:
            gated = self.pattern @ self.gate.value * self.gate.factors.transpose(0, 1)
            mixed = gated @ self.gate.matrix
        mixed = mixed if self.mean is None else mixed + self.mean
        if self.post.kind == "none":
            return mixed * self.scale
        return self.post.frozen(mixed, self.raw) * self.scale


def _times(part: Tensor, scale: float | Tensor) -> Tensor:
    return part if isinstance(scale, float) and scale == 1.0 else part * scale


def other_parts(model: Model, trace: Trace, layer: int) -> dict[str, Floats]:
    """Part -> [pos, d_model] what a block adds besides attention and MLP.

    A mixer in the place of attention is "ssm".
    """
    block = model.stream.blocks[layer]
    found = {part: added for part, added in trace.others(layer).items() if block.writes(part)}
    return {**found, "ssm": trace.attn_out[layer]} if block.mixer_alone else found


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
    weight, bias = linear_weights(block.projection, block.heads * block.d_head)
    value = torch.from_numpy(trace.value_of(layer))
    value = value.repeat_interleave(block.heads // block.kv_heads, dim=0)
    by_head = weight.view(block.heads, block.d_head, -1)
    pattern, gate = _gate(trace, layer, value, by_head)
    moved = torch.bmm(value, by_head) if gate is None else by_head[:, :0]
    mixed, size = _projection_input(trace, layer), value.shape[1]
    offset = bias.repeat(size, 1)
    post, raw = identity_norm(model.info.d_model), offset[:0]
    if block.post_norm is not None:
        post = norm_form(block.post_norm, model.info.d_model) or post
        raw = (_mixed(pattern, value, gate) if mixed is None else mixed) @ weight + offset
        offset = post.frozen(offset, raw) + post.bias
    (writer,) = block.of("attention")
    parts = HeadParts(pattern, moved, post, raw, writer.written(offset), writer.scale, gate=gate)
    own = None if mixed is None else mixed.view(size, block.heads, -1).transpose(0, 1) @ by_head
    return _ablated(trace, layer, parts, own)


def _gate(trace: Trace, layer: int, value: Tensor, by_head: Tensor) -> tuple[Tensor, Gate | None]:
    """The pattern, times the gate if it is one number for each head; and a gate that is more."""
    pattern = torch.from_numpy(trace.pattern_of(layer))
    if layer not in trace.gates:
        return pattern, None
    factors = torch.from_numpy(trace.gates[layer])
    number = factors.mean(-1, keepdim=True)
    if bool(((factors - number).abs() <= 1e-6 * number.abs()).all()):
        return pattern * number[..., 0].T[..., None], None
    return pattern, Gate(factors, value, by_head)


def _mixed(pattern: Tensor, value: Tensor, gate: Gate | None) -> Tensor:
    """[query, head * d_head] what the output projection reads."""
    mixed = (pattern @ value).transpose(0, 1)
    return (mixed if gate is None else mixed * gate.factors).flatten(1)


def _ablated(trace: Trace, layer: int, parts: HeadParts, own: Tensor | None) -> HeadParts:
    """The parts with the ablations of the run.

    Args:
        trace: The run.
        layer: The block.
        parts: Its parts without ablations.
        own: [head, query, d_model] each head's input of the output projection, times W_O.
    """
    ablations = _ablations(trace, layer)
    if not ablations:
        return parts
    heads, size = parts.pattern.shape[:2]
    chosen, whole = _ablated_queries(ablations, heads, size)
    mean = None
    if own is not None and any(item.value != "zero" for item in ablations):
        mean = own * (chosen & ~whole)[..., None]
    return replace(
        parts,
        pattern=parts.pattern.masked_fill((chosen | whole)[..., None], 0.0),
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
    """Whether an ablated head of the layer has an output, which then has no source position."""
    return any(item.head is not None and item.value != "zero" for item in _ablations(trace, layer))


def _ablations(trace: Trace, layer: int) -> list[Ablate]:
    """The ablations of a layer's heads and attention output."""
    items = [item for item in trace.interventions if isinstance(item, Ablate)]
    return [item for item in items if item.layer == layer and item.component in _ATTENTION]


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
    if not model.info.heads:
        raise SpecError(NO_ATTENTION, "Read the model's other components.")
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
