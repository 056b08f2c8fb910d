"""Exact L1 proximities of every head's and source's part, without forming the parts."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

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
