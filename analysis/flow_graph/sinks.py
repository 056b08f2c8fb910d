"""Attention sinks: positions that soak attention up, found and taken out of a flow graph.

A sink (Xiao et al. 2023, arXiv 2309.17453) is where heads park attention that they
have no use for, mostly the first token. It often carries a massive activation (Sun
et al. 2024, arXiv 2402.17762). Neither is "position 0" by definition, so both are measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from analysis.contract.results import Floats
from analysis.flow_graph.methods import Shares
from analysis.flow_graph.results import Sinks
from analysis.flow_graph.specs import FlowSpec
from analysis.tracing.capture import Trace

#: A sink receives at least this part of what later positions pay, ...
RECEIVED = 0.3
#: ... and so many times what it would if all positions were alike, ...
TIMES_EVEN = 1.5
#: ... from at least so many later positions.
LATER = 3
#: Or: its state's norm is so many times the median of its row.
MASSIVE = 10.0


def find(trace: Trace) -> Sinks:
    """Which positions of a run are sinks.

    Args:
        trace: From ``analysis.trace``.

    Returns:
        Sinks: positions whose mean received attention is at least 0.3 and 1.5 times an even share
        (over at least 3 later queries), or whose norm is 10 times the row's median.
    """
    size = len(trace.tokens)
    paid = _paid(trace)
    later = np.arange(size - 1, -1, -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        received = paid.sum(0) / later
        even = np.array([np.mean(1.0 / np.arange(pos + 2, size + 1)) if pos + 1 < size else np.nan
                         for pos in range(size)])  # fmt: skip
    ratio = _norm_ratio(trace)
    soaking = (later >= LATER) & (received >= RECEIVED) & (received >= TIMES_EVEN * even)
    found = np.flatnonzero(soaking | (ratio >= MASSIVE))
    whole = float(paid.sum())
    return Sinks(
        tuple(found.tolist()),
        received.astype(np.float32),
        even.astype(np.float32),
        ratio,
        float(paid[:, found].sum()) / whole if whole > 0.0 else 0.0,
    )


def _paid(trace: Trace) -> NDArray[np.float64]:
    """[query, key] attention to earlier positions, mean over heads and attending layers."""
    size = len(trace.tokens)
    total, count = np.zeros((size, size)), 0
    for pattern in trace.pattern:
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
    """Positions taken out of a graph's attention, and how.

    Attributes:
        hidden: Positions whose links are hidden. reweight: Whether the node's other shares are
            scaled to sum to 1; else their mass counts as hidden.
        folded: Positions whose links end in one sink link for each node.
    """

    hidden: tuple[int, ...] = ()
    folded: tuple[int, ...] = ()
    reweight: bool = False

    def applied(self, shares: Shares, queries: NDArray[np.int64]) -> Shares:
        """Shares without attention from those positions to other ones.

        A position's attention to itself stays: it is part of its own way down.
        """
        if not shares.heads.size:
            return shares
        heads = shares.heads.copy()
        folded = _taken(heads, queries, self.folded)
        _taken(heads, queries, self.hidden)
        left = replace(shares, heads=heads, sink=shares.sink + folded)
        if not self.reweight or not self.hidden:
            return left
        total = left.total
        return left.scaled(1.0 / np.where(total > 0.0, total, 1.0))


def _taken(
    heads: NDArray[np.float64], queries: NDArray[np.int64], positions: tuple[int, ...]
) -> NDArray[np.float64]:
    """Take these sources out of ``heads`` [head, q, key], in place; what they had, [q]."""
    taken = np.zeros(len(queries))
    for pos in positions:
        if pos < heads.shape[2]:
            others = queries != pos
            taken += np.where(others, heads[:, :, pos].sum(0), 0.0)
            heads[:, others, pos] = 0.0
    return taken


def hiding(trace: Trace, spec: FlowSpec, roots: tuple[int, ...]) -> Hiding:
    """What a graph hides: nothing unless asked, never its roots, and never an ordinary token.

    ``hide_start`` takes out position 0 only where it is a special token or a sink: a prompt's
    first word is no start token.
    """
    if not spec.fold_sinks and spec.hide_start == "keep":
        return Hiding()
    found = set(find(trace).positions)
    start = trace.tokens[0].special or 0 in found
    hidden = (0,) if spec.hide_start != "keep" and start and 0 not in roots else ()
    folded = sorted(found - set(hidden) - set(roots)) if spec.fold_sinks else []
    return Hiding(hidden, tuple(folded), spec.hide_start == "reweight")
