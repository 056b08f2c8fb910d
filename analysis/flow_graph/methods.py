"""How states are shared out among their parts: one function for each method.

Each takes the states of many positions at once and gives the share of every
part, hidden ones included; they sum to 1. Formulas and sources stand at each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.flow_graph.parts import Attention, Step
from analysis.lens import shares as shares_module
from analysis.lens.shares import of_products, of_vectors

Array = NDArray[np.float64]
#: Less than this of the pattern is rounding, not a learned sink.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class Shares:
    """Shares of all parts of q states, 0 to 1.

    Attributes:
        heads: [head, q, key]; no heads where there is no attention.
        bias, sink: [q].
        rest: [part, q].
        fallback: [q] whether norm shares stand in because every proximity was 0.
        averaged: Whether ``heads`` holds one entry that stands for the mean of all heads.
    """

    heads: Array
    bias: Array
    sink: Array
    rest: Array
    fallback: NDArray[np.bool_]
    averaged: bool = False

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


@dataclass(frozen=True)
class Method:
    """One way to share a state out.

    Attributes:
        divide: From states to shares.
        vectors: Whether it looks at what each head reads from each source.
    """

    divide: Callable[[Step], Shares]
    vectors: bool = False


def proximity(step: Step) -> Shares:
    """``max(|y|_1 - |z - y|_1, 0)``, normalised over all parts z of y.

    Source: information flow routes, Ferrando and Voita 2024, arXiv 2403.00824. Where every
    part scores 0, ``|z|_2`` stands in and the node is marked.
    """
    found = _scored(step, of_products, lambda part: of_vectors(part, step.whole))
    total = found.total
    if (total > 0.0).all():
        return found.scaled(1.0 / total)
    lost = total <= 0.0
    instead = norm(step)
    kept = found.scaled(np.where(lost, 0.0, 1.0 / np.where(lost, 1.0, total)))
    return Shares(
        np.where(lost[:, None], instead.heads, kept.heads),
        np.where(lost, instead.bias, kept.bias),
        kept.sink,
        np.where(lost, instead.rest, kept.rest),
        lost,
    )


def norm(step: Step) -> Shares:
    """``|z|_2 / sum |z|_2`` over all parts: every head and source, biases, residual, MLP."""
    found = _scored(
        step,
        lambda weights, vectors, _: (weights * vectors.norm(dim=-1)[:, None]).double(),
        lambda part: part.norm(dim=-1).double(),
    )
    return _divided(found)


def _scored(
    step: Step,
    products: Callable[[Tensor, Tensor, Tensor], Tensor],
    score: Callable[[Tensor], Tensor],
) -> Shares:
    """The score of each part in the shares' places."""
    attention, size = step.attention, len(step.whole)
    heads, bias = np.zeros((0, size, 0)), np.zeros(size)
    if attention is not None and attention.weights is not None and attention.vectors is not None:
        heads = products(attention.weights, attention.vectors, step.whole).numpy()
    if attention is not None and attention.bias is not None:
        bias = score(attention.bias).numpy()
    return Shares(heads, bias, np.zeros(size), score(step.rest).numpy(), np.zeros(size, bool))


def _divided(found: Shares) -> Shares:
    """Scores over their sum; where every part is the zero vector, all of it is residual."""
    total = found.total
    empty = total <= 0.0
    if empty.any():
        rest = found.rest.copy()
        rest[0, empty] = 1.0
        found, total = replace(found, rest=rest), np.where(empty, 1.0, total)
    return found.scaled(1.0 / total)


def attention(step: Step) -> Shares:
    """Residual, attention and MLP split by L2 norm; attention's part by pattern over heads.

    What a learned sink takes of the pattern is a part of its own (kind "sink").
    """
    return _by_pattern(step, _norm_split(step))


def value_weighted(step: Step) -> Shares:
    """Attention's part split by ``|pattern[i,j] · v_j · W_O|_2`` of each head and source.

    Source: Kobayashi et al. 2020, arXiv 2004.10102. Their norms weigh attention alone, so it is
    our choice that residual, attention as a whole and MLP are split by L2 norm first, as in
    ``attention``. Post-norms and multipliers are included; biases have no share of their own.
    """
    split, inside = _norm_split(step), step.attention
    if inside is None or inside.weights is None or inside.vectors is None:
        return _by_pattern(step, split)
    found = _by_pattern(step, split)
    norms = (inside.weights * inside.vectors.norm(dim=-1)[:, None]).double()
    total = norms.sum((0, 2))
    known = (total > 0.0).numpy()
    heads = (norms / total.clamp_min(1e-300)[:, None] * split[-1][:, None]).numpy()
    return replace(
        found,
        heads=np.where(known[:, None], heads, found.heads),
        sink=np.where(known, 0.0, found.sink),
    )


def residual_norm(step: Step) -> Shares:
    """``|x| / (|x| + |a|)`` for the residual, the rest for the component, as InTraVisTo has it.

    Attention's part is divided by the head-mean pattern, so links have no head. Source:
    InTraVisTo 2024, ``utils.py``. It knows sequential blocks only; in a parallel one the split
    is nested the same way: the MLP against ``x + a``, then ``x`` against ``a``.
    """
    if step.attention is None or len(step.rest) == 1:
        return _averaged(_by_pattern(step, _norm_split(step)))
    residual, mlp, added = step.rest[0], step.rest[1], step.attention.total
    outer = _split([residual + added, mlp])
    inner = _split([residual, added]) * outer[0]
    return _averaged(_by_pattern(step, torch.stack([inner[0], outer[1], inner[1]])))


def kl(step: Step) -> Shares:
    """Two or three parts by ``1 / (KL(p_whole || p_part) + 1e-10)`` on vocabulary distributions.

    The parts are residual, attention and MLP, read through the lens; attention's part is divided
    by the pattern over heads (a decoding for every head and source would take minutes). After
    InTraVisTo 2024, which takes ``hidden_kl``.
    """
    return _by_pattern(
        step,
        shares_module.shares(shares_module.vocabulary(step.readout, step.whole, _wholes(step))),
    )


def hidden_kl(step: Step) -> Shares:
    """As ``kl``, on the softmax over hidden coordinates: InTraVisTo's own (2024, ``utils.py``)."""
    return _by_pattern(
        step, shares_module.shares(shares_module.hidden(step.readout, step.whole, _wholes(step)))
    )


def rollout(step: Step) -> Shares:
    """``0.5 · mean_h A + 0.5 · I`` for each layer; the MLP carries none, and links have no head.

    Source: attention rollout, Abnar and Zuidema 2020, arXiv 2005.00928. A layer without
    attention passes everything on by its residual.
    """
    inside, size = step.attention, len(step.whole)
    half = 0.5 if inside is not None and inside.pattern is not None else 0.0
    split = torch.zeros(len(step.rest) + (inside is not None), size, dtype=torch.float64)
    split[0] = 1.0 - half
    if inside is not None:
        split[-1] = half
    return _averaged(_by_pattern(step, split))


def _wholes(step: Step) -> Tensor:
    """[part, q, d_model] residual, the MLP where it is a part, and attention as one part."""
    if step.attention is None:
        return step.rest
    return torch.cat([step.rest, step.attention.total[None]])


def _norm_split(step: Step) -> Tensor:
    return _split(list(_wholes(step)))


def _split(parts: list[Tensor]) -> Tensor:
    """[part, q] L2 norms over their sum; where all are 0, the first has everything."""
    norms = torch.stack([part.norm(dim=-1) for part in parts]).double()
    norms[0] += (norms.sum(0) <= 0.0).double()
    return norms / norms.sum(0)


def _by_pattern(step: Step, split: Tensor) -> Shares:
    """Residual, MLP and, last, attention from ``split`` [part, q]; attention by its pattern."""
    size, inside = len(step.whole), step.attention
    nothing = np.zeros(size)
    marks = nothing.astype(bool)
    if inside is None:
        return Shares(np.zeros((0, size, 0)), nothing, nothing, split.numpy(), marks)
    rest, share = split[:-1].numpy(), split[-1]
    if inside.pattern is None:
        return Shares(np.zeros((0, size, 0)), share.numpy(), nothing, rest, marks)
    heads, sink = _pattern_shares(inside)
    return Shares((heads * share[:, None]).numpy(), nothing, (sink * share).numpy(), rest, marks)


def _pattern_shares(inside: Attention) -> tuple[Tensor, Tensor]:
    """Pattern over heads [head, q, key], and what a learned sink takes [q]; they sum to 1."""
    assert inside.pattern is not None  # noqa: S101 - callers looked
    pattern = inside.pattern.double() / len(inside.pattern)
    total = pattern.sum((0, 2))
    sink = (1.0 - total).clamp_min(0.0)
    sink = torch.where(sink > _ROUNDING, sink, 0.0)
    whole = (total + sink).clamp_min(1e-30)
    return pattern / whole[:, None], sink / whole


def _averaged(shares: Shares) -> Shares:
    return replace(shares, heads=shares.heads.sum(0, keepdims=True), averaged=True)


METHODS: dict[str, Method] = {
    "proximity": Method(proximity, vectors=True),
    "norm": Method(norm, vectors=True),
    "attention": Method(attention),
    "value_weighted": Method(value_weighted, vectors=True),
    "residual_norm": Method(residual_norm),
    "kl": Method(kl),
    "hidden_kl": Method(hidden_kl),
    "rollout": Method(rollout),
}
