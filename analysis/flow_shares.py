"""How a state is shared out among its parts: one function for each method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.capture import Trace
from analysis.models.handle import Model
from analysis.parts import has_heads, head_parts

Array = NDArray[np.float64]


@dataclass(frozen=True)
class StepParts:
    """The parts of one state.

    Attributes:
        heads: [head, key, d_model] what each head reads from each position; None: no attention.
        bias: [d_model] attention's bias; None where there is none.
        rest: [part, d_model] the residual first, then the MLP where it is a part.
        whole: [d_model] the state: the sum of all parts.
        pattern: [head, key] attention weights at this query.
    """

    heads: Tensor | None
    bias: Tensor | None
    rest: Tensor
    whole: Tensor
    pattern: Tensor | None = None


@dataclass(frozen=True)
class Shares:
    """Shares of all parts, 0 to 1; they sum to 1.

    Attributes:
        heads: [head, key]. bias, sink: one number each. rest: [part].
        fallback: Whether norm shares stand in because every proximity was 0.
    """

    heads: Array
    bias: float
    sink: float
    rest: Array
    fallback: bool = False


def attention_parts(
    model: Model, trace: Trace, layer: int, pos: int
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Heads' parts [head, key, d_model], bias [d_model] and pattern [head, key] at a query."""
    if not has_heads(model, layer):
        return None, torch.from_numpy(trace.attn_out[layer, pos]), None
    parts = head_parts(model, trace, layer)
    bias = parts.bias[pos]
    some = bias if bool(bias.any()) else None
    return parts.sources(pos), some, parts.pattern[:, pos, : pos + 1]


def proximity(parts: StepParts) -> Shares:
    """``max(|y|_1 - |z - y|_1, 0)``, normalised over all parts z of y.

    Source: information flow routes, Ferrando and Voita 2024, arXiv 2403.00824. Where every
    part scores 0, ``|z|_2`` stands in and the node is marked.
    """
    whole = parts.whole
    size = whole.abs().sum()

    def score(vectors: Tensor) -> Tensor:
        return (size - (vectors - whole).abs().sum(-1)).clamp_min(0.0).double()

    shares = _normalised(parts, score)
    if shares is not None:
        return shares
    by_norm = _normalised(parts, lambda vectors: vectors.norm(dim=-1).double())
    if by_norm is None:  # every part is the zero vector: all of it is residual
        rest = np.zeros(len(parts.rest))
        rest[0] = 1.0
        heads = np.zeros(parts.heads.shape[:2] if parts.heads is not None else (0, 0))
        return Shares(heads, 0.0, 0.0, rest, fallback=True)
    return Shares(by_norm.heads, by_norm.bias, by_norm.sink, by_norm.rest, fallback=True)


def _normalised(parts: StepParts, score: Callable[[Tensor], Tensor]) -> Shares | None:
    heads = score(parts.heads) if parts.heads is not None else torch.zeros(0, 0).double()
    bias = float(score(parts.bias)) if parts.bias is not None else 0.0
    rest = score(parts.rest)
    total = float(heads.sum()) + bias + float(rest.sum())
    if total <= 0.0:
        return None
    return Shares((heads / total).numpy(), bias / total, 0.0, (rest / total).numpy())


def attention(parts: StepParts) -> Shares:
    """Residual, attention and MLP split by L2 norm; attention's part by pattern over heads.

    What a learned sink takes of the pattern is a part of its own (kind "sink").
    """
    vectors = list(parts.rest)
    if parts.heads is not None:
        vectors.append(parts.whole - parts.rest.sum(0))
    elif parts.bias is not None:
        vectors.append(parts.bias)
    norms = torch.stack([vector.norm() for vector in vectors]).double()
    split = (norms / norms.sum().clamp_min(1e-30)).numpy()
    rest, share = split[: len(parts.rest)], float(split[len(parts.rest) :].sum())
    if parts.pattern is None:
        return Shares(np.zeros((0, 0)), share, 0.0, rest)
    pattern = parts.pattern.double().numpy() / len(parts.pattern)
    sink = max(1.0 - float(pattern.sum()), 0.0)
    sink = sink if sink > 1e-5 else 0.0
    pattern = pattern / (pattern.sum() + sink)
    return Shares(share * pattern, 0.0, share * sink, rest)


SHARES: dict[str, Callable[[StepParts], Shares]] = {
    "proximity": proximity,
    "attention": attention,
}
