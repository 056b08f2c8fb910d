"""Shares of residual, attention and MLP in each block's output, by four measures.

The denominator is the same for all: the block's output,
``resid[layer + 1] = resid[layer] + attn_out[layer] + mlp_out[layer]``, whether attention and MLP
run one after the other or side by side. Residual, attention and MLP sum to 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from analysis import flow_kl, progress
from analysis.capture import Trace
from analysis.flow_proximity import of_vectors
from analysis.models.handle import Model
from analysis.token_logits import log_probs

#: Log-probabilities of each kind held at once, float64.
_AT_ONCE = 1 << 22


def norm(residual: Tensor, attention: Tensor, mlp: Tensor) -> Tensor:
    """``|z|_2 / sum |z|_2`` over the three parts; all of it residual where all are 0.

    Args:
        residual: [n, d_model] what n block outputs had before the block.
        attention: [n, d_model] what attention added.
        mlp: [n, d_model] what the MLP added.

    Returns:
        [part, n], float64.
    """
    norms = torch.stack([part.norm(dim=-1) for part in (residual, attention, mlp)]).double()
    norms[0] += (norms.sum(0) <= 0.0).double()
    return norms / norms.sum(0)


def proximity(residual: Tensor, attention: Tensor, mlp: Tensor) -> tuple[Tensor, Tensor]:
    """``max(|y|_1 - |z - y|_1, 0)`` over the three parts z of y, normalised.

    Source: information flow routes, Ferrando and Voita 2024, arXiv 2403.00824. Attention is one
    part here; a flow graph scores each head and source position on its own, so its attention
    links need not sum to this.

    Returns:
        [part, n], and [n] whether every part scored 0, so that ``norm`` stands in.
    """
    whole = residual + attention + mlp
    scores = torch.stack([of_vectors(part, whole) for part in (residual, attention, mlp)])
    total = scores.sum(0)
    lost = total <= 0.0
    shares = scores / torch.where(lost, 1.0, total)
    return torch.where(lost, norm(residual, attention, mlp), shares), lost


def hidden_kl(model: Model, residual: Tensor, attention: Tensor, mlp: Tensor) -> Tensor:
    """InTraVisTo's KL split on softmax over hidden coordinates after the final norm.

    Source: InTraVisTo 2024, ``utils.py``: of two parts, the residual has
    ``KL_x / (KL_res + KL_x)``, where KL is from the sum's distribution to the part's, and the
    component the rest. (Their heatmap "attention / FFN contribution" shows the residual's share
    under the component's name; here each share is its own part's.) In a sequential block that is
    done twice, as there: the MLP beside the mid residual, attention beside the residual; the
    latter two share what the MLP leaves, so that ``attention / (attention + residual)`` is their
    attention value and ``mlp`` their FFN value. They know no parallel blocks: there the three parts
    get ``1 / KL`` at once.

    Returns:
        [part, n], float64.
    """

    def split(whole: Tensor, *parts: Tensor) -> Tensor:
        """[part, n] hidden-coordinate KL shares of the parts that make up ``whole``."""
        return flow_kl.shares(flow_kl.hidden(model.readout, whole, torch.stack(parts)))

    middle = residual + attention
    if model.info.parallel_blocks:
        return split(middle + mlp, residual, attention, mlp)
    outer, inner = split(middle + mlp, middle, mlp), split(middle, residual, attention)
    return torch.stack([outer[0] * inner[0], outer[0] * inner[1], outer[1]])


@torch.no_grad()
def vocabulary_kl(model: Model, trace: Trace, position: int) -> Tensor:
    """``1 / (KL(p_whole || p_part) + 1e-10)`` over the three parts, normalised.

    p is the lens's distribution over the vocabulary, of the block's output and of each part on its
    own; as InTraVisTo's measure, but where tokens are. In float64: a part's KL may be smaller than
    float32's rounding.

    Returns:
        [part, layer].
    """
    layers = model.info.layers
    size = max(_AT_ONCE // int(model.readout.output_rows.shape[0]), 1)
    found = [
        _divergences(model, trace, position, start, min(start + size, layers))
        for start in range(0, layers, size)
    ]
    return flow_kl.shares(torch.cat(found, 1))


def _divergences(model: Model, trace: Trace, position: int, start: int, stop: int) -> Tensor:
    """[part, layer] KL of each part of the blocks from ``start`` to before ``stop``."""
    rows = log_probs(model, torch.from_numpy(trace.resid[start : stop + 1, position]))
    whole = rows[1:].exp()
    found = [_kl(whole, rows[1:], rows[:-1])]
    for parts in (trace.attn_out, trace.mlp_out):
        read = log_probs(model, torch.from_numpy(parts[start:stop, position]))
        found.append(_kl(whole, rows[1:], read))
    return torch.stack(found)


def _kl(probs: Tensor, wanted: Tensor, other: Tensor) -> Tensor:
    # Two inner products, each read once; in float64 their difference is good to 1e-14.
    both: Tensor = torch.linalg.vecdot(probs, wanted) - torch.linalg.vecdot(probs, other)
    return both.clamp_min(0.0)


#: Of the methods that need no vocabulary; proximity is apart, for it says where it fell back.
CHEAP: dict[str, Callable[[Model, Tensor, Tensor, Tensor], Tensor]] = {
    "norm": lambda _model, residual, attention, mlp: norm(residual, attention, mlp),
    "hidden_kl": hidden_kl,
}


@torch.no_grad()
def shares(
    model: Model, trace: Trace, positions: list[int], methods: tuple[str, ...]
) -> tuple[Tensor, Tensor]:
    """Shares of all layers at some positions.

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``.
        positions: [pos].
        methods: "norm", "proximity", "kl", "hidden_kl".

    Returns:
        [method, part, layer, pos] float32, and [layer, pos] where proximity fell back on norm.

    Raises:
        CancelledError: If the caller's progress listener stops the work.
    """
    layers = model.info.layers
    found = torch.zeros(len(methods), 3, layers, len(positions))
    fallback = torch.zeros(layers, len(positions), dtype=torch.bool)
    for number, method in enumerate(methods):
        for layer in range(layers if method != "kl" else 0):
            parts = [
                torch.from_numpy(array[layer, positions])
                for array in (trace.resid, trace.attn_out, trace.mlp_out)
            ]
            if method == "proximity":
                found[number, :, layer], fallback[layer] = proximity(*parts)
            else:
                found[number, :, layer] = CHEAP[method](model, *parts)
        for place, position in enumerate(positions if method == "kl" else []):
            found[number, :, :, place] = vocabulary_kl(model, trace, position)
            progress.step(place + 1, len(positions), "Contribution shares by vocabulary")
    return found, fallback
