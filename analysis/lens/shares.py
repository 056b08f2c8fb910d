"""How much of a state each of its parts makes up: shares by norm, proximity and KL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from analysis.contract import jobs
from analysis.model.handle import Model
from analysis.model.readout import Readout
from analysis.tracing.capture import Trace
from analysis.tracing.vocabulary import kl, log_probs

#: Buckets: numbers of a state's smallest coordinates that a part may exceed.
_BUCKETS = (0, 4, 12, 32, 80, 200)
#: Numbers gathered at once.
_MAX_GATHERED = 1 << 20
#: Keeps a share finite if a part and its state have the same distribution.
EPSILON = 1e-10
#: Logits held at once in each matrix.
_MAX_LOGITS = 1 << 21
#: Log-probabilities of each kind held at once, float64.
_MAX_LOG_PROBS = 1 << 22


def proximity_of_vectors(parts: Tensor, whole: Tensor) -> Tensor:
    """``max(|y|_1 - |z - y|_1, 0)`` of parts z [..., q, d_model] of states y [q, d_model]."""
    size = whole.abs().sum(-1)
    return (size - (parts - whole).abs().sum(-1)).clamp_min(0.0).double()


def proximity_of_products(weights: Tensor, vectors: Tensor, whole: Tensor) -> Tensor:
    """The same for parts that are products of a weight and a vector.

    Per coordinate, with ``r = z · sign(y)``: ``|y| - |z - y| = r - 2 max(r - |y|, 0)``. The first
    term is linear, so one matrix product gives it for all parts. The second term is 0 unless
    the part exceeds the state. Small parts exceed it in few coordinates, so coordinates are
    examined in order of ``|y|``, up to the largest that the part can exceed.

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
    # int32 indices, where they suffice, halve the memory to move.
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

    Parts whose linear term is not positive score 0 and are left out.
    """
    width = size.shape[-1]
    positive = found > 0.0
    edges = [edge for edge in _BUCKETS if edge < width]
    for place, low in enumerate(edges):
        above = positive & (reach > size[None, :, low, None])
        last = place + 1 == len(edges)
        count = width if last else edges[place + 1]
        if not last:
            above &= reach <= size[None, :, count, None]
        yield above.nonzero(), count


def _pieces(picks: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for piece in torch.split(picks, max(_MAX_GATHERED // count, 1)):
        if len(piece):
            head, query, key = piece.unbind(1)
            yield head, query, key


def vocabulary_kl(readout: Readout, whole: Tensor, parts: Tensor) -> Tensor:
    """``KL(p_whole || p_part)`` in nats, on distributions over the vocabulary (the lens).

    Args:
        readout: The model's final norm and unembedding.
        whole: [q, d_model].
        parts: [part, q, d_model].

    Returns:
        [part, q], float64. One matrix product decodes a part for a whole chunk of positions.
    """

    def decode(states: Tensor) -> Tensor:
        """[n, vocab] logits of states, on the CPU."""
        states = states.to(readout.device, readout.output_rows.dtype)
        return readout.logits(states).cpu()

    return _in_chunks(decode, whole, parts, int(readout.output_rows.shape[0]))


def hidden_kl(readout: Readout, whole: Tensor, parts: Tensor) -> Tensor:
    """The same on a softmax over the hidden coordinates after the final norm.

    That distribution has no meaning in tokens; it is what InTraVisTo (2024, ``utils.py``) uses.
    """

    def decode(states: Tensor) -> Tensor:
        """[n, d_model] states after the final norm, on the CPU."""
        return readout.normed(states.to(readout.device, readout.output_rows.dtype)).float().cpu()

    return _in_chunks(decode, whole, parts, whole.shape[-1])


def _in_chunks(
    decode: Callable[[Tensor], Tensor], whole: Tensor, parts: Tensor, width: int
) -> Tensor:
    """Compute in float64: the KL of a part can be smaller than float32's rounding error."""
    size = max(_MAX_LOGITS // width, 1)
    found = []
    for states, several in zip(
        torch.split(whole, size), torch.split(parts, size, dim=1), strict=True
    ):
        wanted = torch.log_softmax(decode(states).double(), -1)
        others = (torch.log_softmax(decode(part).double(), -1) for part in several)
        found.append(torch.stack([kl(wanted, other) for other in others]))
    return torch.cat(found, 1)


def kl_shares(divergences: Tensor) -> Tensor:
    """[part, q] ``1 / (KL + epsilon)``, normalised over the parts."""
    closeness = 1.0 / (divergences + EPSILON)
    return closeness / closeness.sum(0)


def norm_shares(parts: Sequence[Tensor] | Tensor) -> Tensor:
    """``|z|_2 / sum |z|_2`` over parts [n, d_model]; if all are 0, the first part's share is 1.

    Returns:
        [part, n], float64.
    """
    norms = torch.stack([part.norm(dim=-1) for part in parts]).double()
    norms[0] += (norms.sum(0) <= 0.0).double()
    return norms / norms.sum(0)


def proximity_shares(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """``max(|y|_1 - |z - y|_1, 0)`` over parts z [n, d_model] of their sum y, normalised.

    Source: information flow routes, Ferrando and Voita 2024, arXiv 2403.00824. Attention is one
    part here. A flow graph scores each head and source position on its own, so its attention
    links need not sum to this.

    Returns:
        [part, n], and [n] whether every part scored 0, so that ``norm_shares`` replace them.
    """
    whole = torch.stack(list(parts)).sum(0)
    scores = torch.stack([proximity_of_vectors(part, whole) for part in parts])
    total = scores.sum(0)
    zero = total <= 0.0
    shares = scores / torch.where(zero, 1.0, total)
    return torch.where(zero, norm_shares(parts), shares), zero


def hidden_kl_shares(
    model: Model, residual: Tensor, attention: Tensor, mlp: Tensor, *others: Tensor
) -> Tensor:
    """InTraVisTo's KL split on softmax over hidden coordinates after the final norm.

    Source: InTraVisTo 2024, ``utils.py``: it divides two parts. The residual's share is
    ``KL_x / (KL_res + KL_x)``, where each KL is ``KL(sum || part)``. The component gets the rest.
    (The heatmap "attention / FFN contribution" shows the residual's share
    under the component's name; here each share has its own part's name.) In a sequential block this
    is done twice, as in InTraVisTo: the MLP against the mid residual, then attention against the
    residual. The second division shares what the MLP leaves, so ``attention / (attention +
    residual)`` is InTraVisTo's attention value, and ``mlp`` is its FFN value. It has no rule for
    parallel blocks, nor for blocks with further parts; there all parts get ``1 / KL`` at once.

    Args:
        model: The model.
        residual: [n, d_model] the states before the block.
        attention: [n, d_model] what attention adds.
        mlp: [n, d_model] what the MLP adds.
        others: [n, d_model] each: what further parts add.

    Returns:
        [part, n], float64.
    """

    def split(whole: Tensor, *parts: Tensor) -> Tensor:
        """[part, n] hidden-coordinate KL shares of the parts that make up ``whole``."""
        return kl_shares(hidden_kl(model.readout, whole, torch.stack(parts)))

    middle = residual + attention
    if model.info.parallel_blocks or others:
        whole = torch.stack([middle, mlp, *others]).sum(0)
        return split(whole, residual, attention, mlp, *others)
    outer, inner = split(middle + mlp, middle, mlp), split(middle, residual, attention)
    return torch.stack([outer[0] * inner[0], outer[0] * inner[1], outer[1]])


@torch.no_grad()
def vocabulary_kl_shares(model: Model, trace: Trace, position: int) -> Tensor:
    """``1 / (KL(p_whole || p_part) + 1e-10)`` over a block's parts, normalised.

    p is the lens's distribution over the vocabulary, of the block's output and of each part on its
    own: InTraVisTo's measure, but on tokens.

    Returns:
        [part, layer].
    """
    layers = model.info.layers
    size = max(_MAX_LOG_PROBS // int(model.readout.output_rows.shape[0]), 1)
    found = [
        _divergences(model, trace, position, start, min(start + size, layers))
        for start in range(0, layers, size)
    ]
    return kl_shares(torch.cat(found, 1))


def _divergences(model: Model, trace: Trace, position: int, start: int, stop: int) -> Tensor:
    """[part, layer] KL of each part of the blocks from ``start`` to before ``stop``.

    Each row is decoded once: it is one block's output and the next one's residual.
    """
    rows = log_probs(model, torch.from_numpy(trace.resid[start : stop + 1, position]))
    kept = rows[:-1]
    if trace.carry is not None:
        states = [trace.kept(layer)[position] for layer in range(start, stop)]
        kept = log_probs(model, torch.from_numpy(np.stack(states)))
    found = [kl(rows[1:], kept)]
    for parts in (trace.attn_out, trace.mlp_out, *trace.other_out.values()):
        part = log_probs(model, torch.from_numpy(parts[start:stop, position]))
        found.append(kl(rows[1:], part))
    return torch.stack(found)


@torch.no_grad()
def block_shares(
    model: Model, trace: Trace, positions: list[int], methods: tuple[str, ...]
) -> tuple[Tensor, Tensor]:
    """Shares of residual, attention, MLP and further parts in every block's output.

    Args:
        model: The model.
        trace: Its trace.
        positions: [pos].
        methods: "norm", "proximity", "kl", "hidden_kl".

    Returns:
        [method, part, layer, pos] float32; [layer, pos] where norm shares replace proximity 0.

    Raises:
        SpecError: If an intervention edited one of the states.
        CancelledError: If the caller's progress listener stops the work.
    """
    trace.require_sums(slice(None), positions)
    layers = model.info.layers
    found = torch.zeros(len(methods), 3 + len(trace.other_out), layers, len(positions))
    fallback = torch.zeros(layers, len(positions), dtype=torch.bool)
    for number, method in enumerate(methods):
        if method == "kl":
            for place, position in enumerate(positions):
                found[number, :, :, place] = vocabulary_kl_shares(model, trace, position)
                jobs.step(place + 1, len(positions), "Contribution shares by vocabulary")
            continue
        for layer in range(layers):
            added = [trace.attn_out[layer], trace.mlp_out[layer], *trace.others(layer).values()]
            parts = [torch.from_numpy(part[positions]) for part in (trace.kept(layer), *added)]
            if method == "proximity":
                found[number, :, layer], fallback[layer] = proximity_shares(parts)
            elif method == "hidden_kl":
                found[number, :, layer] = hidden_kl_shares(model, *parts)
            else:
                found[number, :, layer] = norm_shares(parts)
    written = _written(model, trace)
    if not written.all():
        found = found * written
        found = found / found.sum(1, keepdim=True)
    return found, fallback


def _written(model: Model, trace: Trace) -> Tensor:
    """[part, layer, 1] whether a block has the part; else its KL, of a zero vector, is no share."""
    names = ("attention", "mlp", *trace.other_out)
    has = [[bool(block.of(part)) for part in names] for block in model.stream.blocks]
    return torch.tensor([[True, *row] for row in has]).T[..., None]
