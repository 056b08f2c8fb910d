"""Attention sinks: find them, and leave attention to them out of a flow graph.

A sink (Xiao et al. 2023, arXiv 2309.17453) is a position that gets attention for which heads have
no other use, mostly the first token. It often carries a massive activation (Sun et al. 2024, arXiv
2402.17762). Neither need be position 0, so both are measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from analysis.contract.specs import Floats
from analysis.flow_graph.methods import Shares
from analysis.flow_graph.results import Sinks
from analysis.flow_graph.specs import FlowSpec
from analysis.tracing.capture import Trace

#: A sink receives at least this share of the attention of later positions, ...
RECEIVED = 0.3
#: ... at least this multiple of an even share, ...
TIMES_EVEN = 1.5
#: ... from at least this many later positions.
LATER = 3
#: Or the norm of its state is at least this multiple of the row's median.
MASSIVE = 10.0


def find(trace: Trace) -> Sinks:
    """The positions of a run that are sinks.

    Args:
        trace: From ``analysis.trace``.

    Returns:
        Positions whose mean received attention is at least 0.3 and 1.5 times an even share
        (over at least 3 later queries), or whose norm is 10 times the row's median.
    """
    size = len(trace.tokens)
    attention = _mean_attention(trace)
    later = np.arange(size - 1, -1, -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        received = attention.sum(0) / later
        even = np.array([np.mean(1.0 / np.arange(pos + 2, size + 1)) if pos + 1 < size else np.nan
                         for pos in range(size)])  # fmt: skip
    ratio = _norm_ratio(trace)
    by_attention = (later >= LATER) & (received >= RECEIVED) & (received >= TIMES_EVEN * even)
    found = np.flatnonzero(by_attention | (ratio >= MASSIVE))
    whole = float(attention.sum())
    return Sinks(
        tuple(found.tolist()),
        received.astype(np.float32),
        even.astype(np.float32),
        ratio,
        float(attention[:, found].sum()) / whole if whole > 0.0 else 0.0,
    )


def _mean_attention(trace: Trace) -> NDArray[np.float64]:
    """[query, key] attention to earlier positions, mean over heads and layers with attention."""
    size = len(trace.tokens)
    total, count = np.zeros((size, size)), 0
    for layer in range(len(trace.attn_out)):
        pattern = trace.pattern_of(layer)
        if not np.isnan(pattern[0, 0, 0]):
            total, count = total + pattern.mean(0), count + 1
    return np.tril(total / max(count, 1), -1)


def _norm_ratio(trace: Trace) -> Floats:
    norms = np.linalg.norm(trace.resid, axis=-1)
    middle = np.maximum(np.median(norms, axis=1, keepdims=True), 1e-30)
    ratio: Floats = (norms / middle).max(0).astype(np.float32)
    return ratio


@dataclass(frozen=True)
class Hiding:
    """Positions whose attention links a graph leaves out, and how.

    Attributes:
        hidden: Positions whose links are hidden.
        folded: Positions whose links are replaced by one sink link for each node.
        reweight: Whether a node's other shares are scaled to sum to 1; else the mass of hidden
            links counts as hidden.
    """

    hidden: tuple[int, ...] = ()
    folded: tuple[int, ...] = ()
    reweight: bool = False

    def applied(self, shares: Shares, queries: NDArray[np.int64]) -> Shares:
        """Shares without attention to those positions from other ones.

        A position's attention to itself stays: it is on the position's own path down.
        """
        if not shares.heads.size:
            return shares
        heads = shares.heads.copy()
        folded = _remove(heads, queries, self.folded)
        _remove(heads, queries, self.hidden)
        remaining = replace(shares, heads=heads, sink=shares.sink + folded)
        if not self.reweight or not self.hidden:
            return remaining
        total = remaining.total
        return remaining.scaled(1.0 / np.where(total > 0.0, total, 1.0))


def _remove(
    heads: NDArray[np.float64], queries: NDArray[np.int64], positions: tuple[int, ...]
) -> NDArray[np.float64]:
    """Set these sources of ``heads`` [head, q, key] to 0 in place; returns their old shares [q]."""
    removed = np.zeros(len(queries))
    for pos in positions:
        if pos < heads.shape[2]:
            others = queries != pos
            removed += np.where(others, heads[:, :, pos].sum(0), 0.0)
            heads[:, others, pos] = 0.0
    return removed


def hiding(trace: Trace, spec: FlowSpec, roots: tuple[int, ...]) -> Hiding:
    """The positions that a graph hides or folds by its spec. Roots are never among them.

    ``hide_start`` applies to position 0 only if it is a special token or a sink: an ordinary first
    word is not a start token.
    """
    if not spec.fold_sinks and spec.hide_start == "keep":
        return Hiding()
    found = set(find(trace).positions)
    start = trace.tokens[0].special or 0 in found
    hidden = (0,) if spec.hide_start != "keep" and start and 0 not in roots else ()
    folded = sorted(found - set(hidden) - set(roots)) if spec.fold_sinks else []
    return Hiding(hidden, tuple(folded), spec.hide_start == "reweight")
