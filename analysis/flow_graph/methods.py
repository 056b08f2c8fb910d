"""How states are divided among their parts: the functions of ``options.FLOW_METHODS``.

A ``Step`` holds states of many positions of one layer with their parts. A method gives the share
of every part; hidden parts are included, so the shares sum to 1. Nothing here forms a vector for
each head, source and query: those parts are products of a weight and a vector that does not
depend on the query (``HeadParts.factors``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.contract.specs import Floats
from analysis.errors import SpecError
from analysis.lens.shares import (
    hidden_kl,
    kl_shares,
    norm_shares,
    proximity_of_products,
    proximity_of_vectors,
    vocabulary_kl,
)
from analysis.model.handle import Model
from analysis.model.readout import Readout
from analysis.tracing.capture import Trace
from analysis.tracing.heads import (
    effective_pattern,
    has_heads,
    has_mean_heads,
    head_parts,
    other_parts,
)

Array = NDArray[np.float64]
#: Parts of a mid residual, and of a sequential block's output, besides attention.
_BEFORE_MIDDLE = ("ssm",)

_AFTER_MIDDLE = ("mlp", "per_layer_embedding", "whole_block")
#: Less than this of the pattern is rounding, not a learned sink.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class Attention:
    """What attention adds to the stream at some positions of one layer.

    Attributes:
        total: [q, d_model] the attention output.
        pattern: [head, q, key] attention weights.
        bias: [q, d_model] the part of the output that comes from biases and ablated outputs;
            None if it is 0.
        factors: Pairs of [head, q, key] weights and [head, key, d_model] vectors, for successive
            positions; their products are the parts of each head and source. None if the method
            does not use them.
    """

    total: Tensor
    pattern: Tensor
    bias: Tensor | None
    factors: list[tuple[Tensor, Tensor]] | None = None


@dataclass(frozen=True)
class Step:
    """States of one kind at some positions of one layer, and their parts.

    Attributes:
        whole: [q, d_model] the states: the sum of all parts.
        rest: [part, q, d_model] the residual first, then the parts besides attention.
        attention: None if attention is no part.
        readout: How the model reads states, for methods that decode.
        names: Names of ``rest``: "residual", then "mlp" or other parts that the block has.
    """

    whole: Tensor
    rest: Tensor
    readout: Readout
    attention: Attention | None = None
    names: tuple[str, ...] = ("residual",)

    @property
    def parts(self) -> Tensor:
        """[part, q, d_model] residual, MLP if it is a part, and attention as one part, last."""
        if self.attention is None:
            return self.rest
        return torch.cat([self.rest, self.attention.total[None]])


def block_step(model: Model, trace: Trace, layer: int, queries: Tensor) -> Step:
    """Outputs of a sequential block: the mid residual and the MLP."""
    trace.require_sums(slice(layer + 1, layer + 2), queries)
    names, rest = _rest(model, trace, layer, queries, trace.middle(layer), _AFTER_MIDDLE)
    whole = torch.from_numpy(trace.resid[layer + 1])[queries]
    return Step(whole, rest, model.readout, names=names)


def _rest(
    model: Model, trace: Trace, layer: int, queries: Tensor, residual: Floats, wanted: Sequence[str]
) -> tuple[tuple[str, ...], Tensor]:
    """The residual and those of the wanted parts that the block writes, with their names."""
    written = {"mlp": trace.mlp_out[layer], **other_parts(model, trace, layer)}
    names = [part for part in wanted if model.stream.blocks[layer].writes(part)]
    parts = [residual, *(written[part] for part in names)]
    rest = torch.stack([torch.from_numpy(part)[queries] for part in parts])
    return ("residual", *names), rest


def attention_step(
    model: Model, trace: Trace, layer: int, queries: Tensor, *, vectors: bool
) -> Step:
    """Mid residuals, or a parallel block's outputs: the residual, attention, and there the MLP.

    Args:
        model: The model.
        trace: Its trace.
        layer: The block.
        queries: [q] positions, ascending.
        vectors: Whether the method uses what each head reads from each source.

    Raises:
        SpecError: If it does, and the attention can't be split into heads; if it does not, and
            a head is ablated to its mean.
    """
    attention = None
    if model.stream.blocks[layer].writes("attention"):
        attention = _attention(model, trace, layer, queries, vectors)
    whole, wanted = trace.middle(layer), list(_BEFORE_MIDDLE)
    if model.info.parallel_blocks:
        trace.require_sums(slice(layer + 1, layer + 2), queries)
        whole, wanted = trace.resid[layer + 1], [*_AFTER_MIDDLE, *_BEFORE_MIDDLE]
    names, rest = _rest(model, trace, layer, queries, trace.kept(layer), wanted)
    return Step(torch.from_numpy(whole)[queries], rest, model.readout, attention, names)


def _attention(model: Model, trace: Trace, layer: int, queries: Tensor, vectors: bool) -> Attention:
    total = torch.from_numpy(trace.attn_out[layer])[queries]
    pattern = effective_pattern(trace, layer)[:, queries, : int(queries[-1]) + 1]
    if not vectors:
        if has_mean_heads(trace, layer):
            raise SpecError(
                f"An ablated head of layer {layer} has an output without a source position.",
                "Choose the method proximity or norm, or ablate to zero.",
            )
        return Attention(total, pattern, None)
    if not has_heads(model, layer):
        raise SpecError(
            f"The attention of layer {layer} can't be split into heads, as this method needs.",
            "Choose a row below that layer, or the method attention.",
        )
    parts = head_parts(model, trace, layer)
    bias = parts.sourceless(queries)
    factors = parts.factors(queries)
    return Attention(total, pattern, bias if bool(bias.any()) else None, factors)


@dataclass(frozen=True)
class Shares:
    """Shares of all parts of q states, 0 to 1.

    Attributes:
        heads: [head, q, key]; no heads where there is no attention.
        bias, sink: [q].
        rest: [part, q].
        fallback: [q] whether every part scored 0, so that norm shares replace the scores.
        averaged: Whether ``heads`` holds one entry, the mean of all heads.
        names: Names of ``rest``; see ``Step``.
    """

    heads: Array
    bias: Array
    sink: Array
    rest: Array
    fallback: NDArray[np.bool_]
    averaged: bool = False
    names: tuple[str, ...] = ("residual",)

    @property
    def others(self) -> dict[str, Array]:
        """Part -> [q] shares of the parts besides residual and attention."""
        return dict(zip(self.names[1:], self.rest[1:], strict=True))

    @property
    def total(self) -> Array:
        """[q] sum over all parts."""
        total: Array = self.heads.sum((0, 2)) + self.bias + self.sink + self.rest.sum(0)
        return total

    def scaled(self, factor: Array) -> Shares:
        """Every share times ``factor`` [q]."""
        return replace(
            self,
            heads=self.heads * factor[:, None],
            bias=self.bias * factor,
            sink=self.sink * factor,
            rest=self.rest * factor,
        )


def proximity(step: Step) -> Shares:
    """``max(|y|_1 - |z - y|_1, 0)``, normalised over all parts z of y.

    Source: information flow routes, Ferrando and Voita 2024, arXiv 2403.00824. Where every
    part scores 0, norm shares replace them and the node is marked.
    """
    scores = _scores(step, proximity_of_products, lambda z: proximity_of_vectors(z, step.whole))
    return _normalised(step, scores)


def _normalised(step: Step, found: Shares) -> Shares:
    """Scores over their sum. Norm shares replace them where every part scores 0; that is marked."""
    total = found.total
    zero = total <= 0.0
    if not zero.any():
        return found.scaled(1.0 / total)
    other = norm(step)
    shares = found.scaled(np.where(zero, 0.0, 1.0 / np.where(zero, 1.0, total)))
    return Shares(
        np.where(zero[:, None], other.heads, shares.heads),
        np.where(zero, other.bias, shares.bias),
        shares.sink,
        np.where(zero, other.rest, shares.rest),
        zero,
    )


def projection(step: Step) -> Shares:
    """``max(<y, z>, 0)``, normalised over all parts z of y.

    Unlike ``norm`` it depends on direction. Unlike ``proximity``, its scores ``<y, z>`` are linear
    in the part and sum to ``|y|^2`` before negative scores are set to 0. Where every part scores 0,
    norm shares replace them and the node is marked.
    """
    scores = _scores(
        step,
        lambda weights, vectors, y: (y @ vectors.mT * weights).clamp_min(0.0).double(),
        lambda z: (z.double() * step.whole.double()).sum(-1).clamp_min(0.0),
    )
    return _normalised(step, scores)


def norm(step: Step) -> Shares:
    """``|z|_2 / sum |z|_2`` over all parts: every head and source, biases, residual, MLP."""
    found = _scores(
        step,
        lambda weights, vectors, _: (weights * vectors.norm(dim=-1)[:, None]).double(),
        lambda part: part.norm(dim=-1).double(),
    )
    total = found.total
    empty = total <= 0.0
    if empty.any():  # every part is the zero vector: all of it is residual
        rest = found.rest.copy()
        rest[0, empty] = 1.0
        found, total = replace(found, rest=rest), np.where(empty, 1.0, total)
    return found.scaled(1.0 / total)


def _scores(
    step: Step,
    products: Callable[[Tensor, Tensor, Tensor], Tensor],
    score: Callable[[Tensor], Tensor],
) -> Shares:
    """Scores of all parts, not yet normalised.

    Args:
        step: The states.
        products: From weights, vectors and states to scores of heads and sources.
        score: From parts [..., d_model] to scores [...].
    """
    attention, size = step.attention, len(step.whole)
    heads, bias = np.zeros((0, size, 0)), np.zeros(size)
    if attention is not None and attention.factors is not None:
        sizes = [weights.shape[1] for weights, _ in attention.factors]
        states = zip(attention.factors, torch.split(step.whole, sizes), strict=True)
        found = [products(*pair, state) for pair, state in states]
        heads = torch.cat(found, 1).numpy()
    if attention is not None and attention.bias is not None:
        bias = score(attention.bias).numpy()
    return Shares(heads, bias, np.zeros(size), score(step.rest).numpy(), np.zeros(size, bool))


def attention(step: Step) -> Shares:
    """Residual, attention and MLP split by L2 norm; attention's part by pattern over heads.

    The pattern's weight on a learned sink is a part of its own (kind "sink").
    """
    return _by_pattern(step, norm_shares(step.parts))


def value_weighted(step: Step) -> Shares:
    """Attention's part split by ``|pattern[i,j] · v_j · W_O|_2`` of each head and source.

    Source: Kobayashi et al. 2020, arXiv 2004.10102. Their norms weigh attention alone. Splitting
    residual, attention as a whole and MLP by L2 norm first, as in ``attention``, is our choice.
    Post-norms and multipliers are included; biases have no share of their own.
    """
    split, inside = norm_shares(step.parts), step.attention
    found = _by_pattern(step, split)
    if inside is None or inside.factors is None:
        return found
    each = [weights * vectors.norm(dim=-1)[:, None] for weights, vectors in inside.factors]
    norms = torch.cat(each, 1).double()
    total = norms.sum((0, 2))
    known = (total > 0.0).numpy()
    heads = (norms / total.clamp_min(1e-300)[:, None] * split[-1][:, None]).numpy()
    return replace(
        found,
        heads=np.where(known[:, None], heads, found.heads),
        sink=np.where(known, 0.0, found.sink),
    )


def residual_norm(step: Step) -> Shares:
    """``|x| / (|x| + |a|)`` for the residual, the rest for the component, as in InTraVisTo.

    Attention's part is divided by the head-mean pattern, so links have no head. Source:
    InTraVisTo 2024, ``utils.py``. It knows sequential blocks only; in a parallel one the split
    is nested the same way: the MLP against ``x + a``, then ``x`` against ``a``.
    """
    if step.attention is None or step.names != ("residual", "mlp"):
        return _averaged(_by_pattern(step, norm_shares(step.parts)))
    residual, mlp, added = step.rest[0], step.rest[1], step.attention.total
    outer = norm_shares([residual + added, mlp])
    inner = norm_shares([residual, added]) * outer[0]
    return _averaged(_by_pattern(step, torch.stack([inner[0], outer[1], inner[1]])))


def kl(step: Step) -> Shares:
    """Two or three parts by ``1 / (KL(p_whole || p_part) + 1e-10)`` on vocabulary distributions.

    The parts are residual, attention and MLP, read through the lens; attention's part is divided
    by the pattern over heads (decoding every head and source would take minutes). After
    InTraVisTo 2024, which uses ``hidden_kl``.
    """
    return _by_pattern(step, kl_shares(vocabulary_kl(step.readout, step.whole, step.parts)))


def kl_of_coordinates(step: Step) -> Shares:
    """As ``kl``, on the softmax over hidden coordinates: InTraVisTo's own (2024, ``utils.py``)."""
    return _by_pattern(step, kl_shares(hidden_kl(step.readout, step.whole, step.parts)))


def rollout(step: Step) -> Shares:
    """``0.5 · mean_h A + 0.5 · I`` for each layer; the MLP carries none, and links have no head.

    Source: attention rollout, Abnar and Zuidema 2020, arXiv 2005.00928. A layer without
    attention, or with all its heads ablated, passes everything on by its residual.
    """
    inside, size = step.attention, len(step.whole)
    half = torch.zeros(size, dtype=torch.float64)
    if inside is not None:
        half[inside.pattern.any(-1).any(0)] = 0.5
    split = torch.zeros(len(step.rest) + (inside is not None), size, dtype=torch.float64)
    split[0] = 1.0 - half
    if inside is not None:
        split[-1] = half
    return _averaged(_by_pattern(step, split))


def _by_pattern(step: Step, split: Tensor) -> Shares:
    """Attention's share, the last of ``split`` [part, q], divided by its pattern."""
    size, inside = len(step.whole), step.attention
    zeros, marks = np.zeros(size), np.zeros(size, bool)
    if inside is None:
        return Shares(np.zeros((0, size, 0)), zeros, zeros, split.numpy(), marks)
    rest, share = split[:-1].numpy(), split[-1]
    heads, sink = _pattern_shares(inside.pattern)
    silent = ~inside.pattern.any(-1).any(0)  # every head is ablated or has no key left
    bias = torch.where(silent, share, 0.0)
    share = share - bias
    return Shares(
        (heads * share[:, None]).numpy(), bias.numpy(), (sink * share).numpy(), rest, marks
    )


def _pattern_shares(pattern: Tensor) -> tuple[Tensor, Tensor]:
    """Pattern over heads [head, q, key], and the weight on a learned sink [q]; they sum to 1.

    Heads with a zero pattern (ablated, or without a key left) are not counted.
    """
    active = pattern.any(-1).sum(0).clamp_min(1)
    pattern = pattern.double() / active[:, None]
    total = pattern.sum((0, 2))
    sink = (1.0 - total).clamp_min(0.0)
    sink = torch.where(sink > _ROUNDING, sink, 0.0)
    whole = (total + sink).clamp_min(1e-30)
    return pattern / whole[:, None], sink / whole


def _averaged(shares: Shares) -> Shares:
    return replace(shares, heads=shares.heads.sum(0, keepdims=True), averaged=True)
