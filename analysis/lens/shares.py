"""Shares of a state's parts, by norm, proximity and KL."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from analysis.contract import progress
from analysis.model.handle import Model
from analysis.model.readout import Readout
from analysis.tracing.capture import Trace
from analysis.tracing.vocabulary import log_probs

#: How many of a state's smallest coordinates a part may exceed, by buckets.
_BUCKETS = (0, 4, 12, 32, 80, 200)
#: Numbers gathered at once.
_PIECE = 1 << 20


def of_vectors(parts: Tensor, whole: Tensor) -> Tensor:
    """``max(|y|_1 - |z - y|_1, 0)`` of parts z [..., q, d_model] of states y [q, d_model]."""
    size = whole.abs().sum(-1)
    return (size - (parts - whole).abs().sum(-1)).clamp_min(0.0).double()


def of_products(weights: Tensor, vectors: Tensor, whole: Tensor) -> Tensor:
    """The same for parts that are products of a weight and a vector.

    Per coordinate, with ``r = z · sign(y)``: ``|y| - |z - y| = r - 2 max(r - |y|, 0)``. The first
    term is linear, so one matrix product gives it for all parts. The second is not 0 only where
    the part exceeds the state, which small parts do in few coordinates: those are looked at in
    order of ``|y|``, as far as the part can reach.

    Args:
        weights: [head, q, key], none negative.
        vectors: [head, key, d_model].
        whole: [q, d_model].

    Returns:
        [head, q, key], float64.
    """
    signs = torch.where(whole < 0, -1.0, 1.0)
    found = (signs @ vectors.transpose(1, 2)) * weights
    reach = weights * vectors.abs().amax(-1)[:, None]
    size, order = whole.abs().sort(-1)
    signed = signs.gather(-1, order)
    # Half the memory to move, where it is enough to number everything.
    order = order.int() if vectors.numel() < 2**31 else order
    numbers = vectors.reshape(-1)
    for picks, count in _buckets(found, reach, size):
        near, least, sign = (array[:, :count].contiguous() for array in (order, size, signed))
        for head, query, key in _pieces(picks, count):
            first = ((head * vectors.shape[1] + key) * vectors.shape[2]).to(order.dtype)
            places = near.index_select(0, query).add_(first[:, None])
            parts = numbers.index_select(0, places.view(-1)).view(places.shape)
            parts.mul_(sign.index_select(0, query))
            parts.mul_(weights[head, query, key][:, None])
            over = parts.sub_(least.index_select(0, query)).clamp_min_(0.0).sum(-1)
            found[head, query, key] -= 2.0 * over
    return found.clamp_min_(0.0).double()


def _buckets(found: Tensor, reach: Tensor, size: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Indices [n, 3] of parts, and how many of the smallest coordinates they can exceed.

    A part whose linear term is not positive scores 0 whatever it exceeds.
    """
    width = size.shape[-1]
    open_ = found > 0.0
    edges = [edge for edge in _BUCKETS if edge < width]
    for place, low in enumerate(edges):
        above = open_ & (reach > size[None, :, low, None])
        last = place + 1 == len(edges)
        count = width if last else edges[place + 1]
        if not last:
            above &= reach <= size[None, :, count, None]
        yield above.nonzero(), count


def _pieces(picks: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for piece in torch.split(picks, max(_PIECE // count, 1)):
        if len(piece):
            head, query, key = piece.unbind(1)
            yield head, query, key


#: What keeps a part that decodes exactly as its state from dividing by zero (design: shares).
EPSILON = 1e-10
#: Logits held at once in each matrix.
_CHUNK = 1 << 21


def vocabulary(readout: Readout, whole: Tensor, parts: Tensor) -> Tensor:
    """``KL(p_whole || p_part)`` in nats, on distributions over the vocabulary (the lens).

    Args:
        readout: How the model reads states.
        whole: [q, d_model].
        parts: [part, q, d_model].

    Returns:
        [part, q], float64. One matrix product decodes a part for a whole chunk of positions.
    """

    def decode(states: Tensor) -> Tensor:
        """[n, vocab] logits of states, on the CPU."""
        states = states.to(readout.device, readout.output_rows.dtype)
        return readout.logits(states).cpu()

    return _chunked(decode, whole, parts, int(readout.output_rows.shape[0]))


def hidden(readout: Readout, whole: Tensor, parts: Tensor) -> Tensor:
    """The same on a softmax over the hidden coordinates after the final norm.

    That distribution says nothing about tokens; it is what InTraVisTo (2024, ``utils.py``) uses.
    """

    def decode(states: Tensor) -> Tensor:
        """[n, d_model] states after the final norm, on the CPU."""
        return readout.normed(states.to(readout.device, readout.output_rows.dtype)).float().cpu()

    return _chunked(decode, whole, parts, whole.shape[-1])


def _chunked(
    decode: Callable[[Tensor], Tensor], whole: Tensor, parts: Tensor, width: int
) -> Tensor:
    size = max(_CHUNK // width, 1)
    found = []
    for states, several in zip(
        torch.split(whole, size), torch.split(parts, size, dim=1), strict=True
    ):
        wanted = torch.log_softmax(decode(states).double(), -1)
        found.append(torch.stack([_kl(wanted, decode(part)) for part in several]))
    return torch.cat(found, 1)


def _kl(wanted: Tensor, logits: Tensor) -> Tensor:
    """KL in nats of rows; in float64, for a part's KL may be smaller than float32's rounding."""
    other = torch.log_softmax(logits.double(), -1)
    # exp(log p) is 0 where log p is below -745; 0 * -inf would be NaN.
    return (wanted.exp() * (wanted - other).nan_to_num(0.0)).sum(-1).clamp_min(0.0)


def shares(divergences: Tensor) -> Tensor:
    """[part, q] ``1 / (KL + epsilon)``, normalised over the parts."""
    closeness = 1.0 / (divergences + EPSILON)
    return closeness / closeness.sum(0)


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
        return shares(hidden(model.readout, whole, torch.stack(parts)))

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
    return shares(torch.cat(found, 1))


def _divergences(model: Model, trace: Trace, position: int, start: int, stop: int) -> Tensor:
    """[part, layer] KL of each part of the blocks from ``start`` to before ``stop``."""
    rows = log_probs(model, torch.from_numpy(trace.resid[start : stop + 1, position]))
    whole = rows[1:].exp()
    found = [_block_kl(whole, rows[1:], rows[:-1])]
    for parts in (trace.attn_out, trace.mlp_out):
        read = log_probs(model, torch.from_numpy(parts[start:stop, position]))
        found.append(_block_kl(whole, rows[1:], read))
    return torch.stack(found)


def _block_kl(probs: Tensor, wanted: Tensor, other: Tensor) -> Tensor:
    # Two inner products, each read once; in float64 their difference is good to 1e-14.
    both: Tensor = torch.linalg.vecdot(probs, wanted) - torch.linalg.vecdot(probs, other)
    return both.clamp_min(0.0)


#: Of the methods that need no vocabulary; proximity is apart, for it says where it fell back.
CHEAP: dict[str, Callable[[Model, Tensor, Tensor, Tensor], Tensor]] = {
    "norm": lambda _model, residual, attention, mlp: norm(residual, attention, mlp),
    "hidden_kl": hidden_kl,
}


@torch.no_grad()
def block_shares(
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
