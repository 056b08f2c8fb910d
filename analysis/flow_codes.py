"""Node numbers of a flow graph while it grows, and the choice of its strongest links."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.results import LINK_KINDS, NODE_KINDS

Whole = NDArray[np.int64]
Part = NDArray[np.float64]
NODE = {kind: number for number, kind in enumerate(NODE_KINDS)}
LINK = {kind: number for number, kind in enumerate(LINK_KINDS)}


@dataclass(frozen=True)
class Codes:
    """One number for each node a graph may have: its kind, depth and position."""

    depths: int
    size: int

    def of(self, kind: str, depth: int, pos: Whole | int) -> Whole:
        """Codes of nodes of one kind and depth."""
        codes: Whole = (NODE[kind] * self.depths + depth) * self.size + np.asarray(pos)
        return codes

    @property
    def count(self) -> int:
        """How many codes there are."""
        return len(NODE_KINDS) * self.depths * self.size

    def split(self, codes: Whole) -> tuple[Whole, Whole, Whole]:
        """Kind, depth and position of each code."""
        rest, pos = np.divmod(codes, self.size)
        kind, depth = np.divmod(rest, self.depths)
        return kind, depth, pos

    def ordered(self, codes: Whole) -> Whole:
        """Each node once: the last row first, then downwards."""
        nodes = np.unique(codes.astype(np.int64))
        kind, depth, pos = self.split(nodes)
        level = 3 * depth + np.where(kind == NODE["block"], 0, np.where(kind == NODE["mlp"], 2, 1))
        ordered: Whole = nodes[np.lexsort((pos, kind, -level))]
        return ordered


def strongest(
    table: Part, weight: Part, top_k: int | None, threshold: float
) -> tuple[Whole, Whole, Whole]:
    """(head, query, key) of the strongest entries above the threshold, by query, best first.

    Args:
        table: [head, query, key] shares.
        weight: [key] what a share is multiplied by for its strength; entries of 0 are left out.
        top_k: How many for each query; None for all.
        threshold: Shares up to this are left out.
    """
    strength = np.where(table > threshold, table * weight, 0.0)
    if top_k is not None:
        strength = _top(strength, top_k)
    head, query, key = np.nonzero(strength)
    order = np.lexsort((-strength[head, query, key], query))
    return head[order], query[order], key[order]


def _top(strength: Part, top_k: int) -> Part:
    """The same with all but the ``top_k`` largest of each query set to 0."""
    heads, size, keys = strength.shape
    flat = strength.transpose(1, 0, 2).reshape(size, heads * keys)
    if top_k >= flat.shape[1]:
        return strength
    kept = np.argpartition(-flat, top_k - 1, axis=1)[:, :top_k]
    only = np.zeros_like(flat)
    np.put_along_axis(only, kept, np.take_along_axis(flat, kept, 1), 1)
    return only.reshape(size, heads, keys).transpose(1, 0, 2)
