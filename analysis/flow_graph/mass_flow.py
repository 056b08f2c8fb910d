"""Mass that flows from the roots of a graph along its links, while the graph grows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from analysis.contract.specs import Floats, Ints, resolve_index
from analysis.errors import SpecError
from analysis.flow_graph.methods import Shares
from analysis.flow_graph.results import LINK_KINDS, NODE_KINDS, Sinks
from analysis.flow_graph.specs import FlowSpec
from analysis.tracing.capture import Trace

Doubles = NDArray[np.float64]
NODE = {kind: number for number, kind in enumerate(NODE_KINDS)}
LINK = {kind: number for number, kind in enumerate(LINK_KINDS)}


@dataclass(frozen=True)
class NodeCodes:
    """One number for each node that a graph may have: its kind, depth and position."""

    depths: int
    size: int

    def of(self, kind: str, depth: int, pos: Ints | int) -> Ints:
        """NodeCodes of nodes of one kind and depth."""
        codes: Ints = (NODE[kind] * self.depths + depth) * self.size + np.asarray(pos)
        return codes

    @property
    def count(self) -> int:
        """The number of codes."""
        return len(NODE_KINDS) * self.depths * self.size

    def split(self, codes: Ints) -> tuple[Ints, Ints, Ints]:
        """Kind, depth and position of each code."""
        rest, pos = np.divmod(codes, self.size)
        kind, depth = np.divmod(rest, self.depths)
        return kind, depth, pos

    def ordered(self, codes: Ints) -> Ints:
        """Each node once: the last row first, then downwards."""
        nodes = np.unique(codes.astype(np.int64))
        kind, depth, pos = self.split(nodes)
        level = 3 * depth + np.where(kind == NODE["block"], 0, np.where(kind == NODE["mlp"], 2, 1))
        ordered: Ints = nodes[np.lexsort((pos, kind, -level))]
        return ordered


def strongest(
    table: Doubles, weight: Doubles, top_k: int | None, threshold: float
) -> NDArray[np.bool_]:
    """[head, query, key] the strongest entries above the threshold.

    Args:
        table: [head, query, key] shares.
        weight: [key] factors of the shares; entries of 0 are left out.
        top_k: How many for each query; None for all.
        threshold: Shares up to this are left out.
    """
    drawn = (table > threshold) & (weight > 0.0)
    if top_k is not None:
        drawn = _top(np.where(drawn, table * weight, 0.0), top_k) > 0.0
    return drawn


def _top(strength: Doubles, top_k: int) -> Doubles:
    """``strength`` with all but the ``top_k`` largest of each query set to 0."""
    heads, size, keys = strength.shape
    flat = strength.transpose(1, 0, 2).reshape(size, heads * keys)
    if top_k >= flat.shape[1]:
        return strength
    kept = np.argpartition(-flat, top_k - 1, axis=1)[:, :top_k]
    only = np.zeros_like(flat)
    np.put_along_axis(only, kept, np.take_along_axis(flat, kept, 1), 1)
    return only.reshape(size, heads, keys).transpose(1, 0, 2)


COLUMNS = ("kind", "layer", "head", "source", "target", "share", "flow")


@dataclass
class LinkBatch:
    """Links that are added together. Mass flows along them after all earlier batches."""

    kind: Ints
    layer: Ints
    head: Ints
    source: Ints
    target: Ints
    share: Doubles
    flow: Doubles

    def only(self, kept: NDArray[np.bool_]) -> LinkBatch:
        """The links that ``kept`` marks."""
        return LinkBatch(*(getattr(self, name)[kept] for name in COLUMNS))


class Widths:
    """Which links can be among the largest of a graph that still grows; see ``MassFlow.cut``.

    Args:
        reached: [node] infinite at the roots, else 0.
        budget: How many links are kept in the end.

    Attributes:
        reached: [node] the width of the widest path to each node.
        least: Links that are narrower are not among the largest.
    """

    def __init__(self, reached: Doubles, budget: int) -> None:
        self.reached, self.least = reached, 0.0
        self._budget = max(budget, 1)
        self._known: list[Doubles] = []
        self._count = 0

    def add(self, start: Ints, end: Ints, flow: Doubles) -> None:
        """Take links from ``start`` to ``end``."""
        width = np.minimum(flow, self.reached[start])
        np.maximum.at(self.reached, end, width)
        self._known.append(width)
        self._count += len(width)
        if self._count > 2 * self._budget:
            every = np.partition(np.concatenate(self._known), -self._budget)[-self._budget :]
            self._known, self._count, self.least = [every], self._budget, float(every[0])


class MassFlow:
    """The mass of every node, and the batches of links that carried it.

    Batches come in an order in which all mass of a node is known before any link leads on from
    it, so one pass over them gives all flows.

    Args:
        spec: Pruning and direction.
        layers: Of the model.
        size: Positions.
        row: The residual row of the roots.
        roots: Their positions.
    """

    def __init__(
        self, spec: FlowSpec, layers: int, size: int, row: int, roots: tuple[int, ...]
    ) -> None:
        self.spec, self.layers, self.row, self.roots = spec, layers, row, roots
        self.up = spec.direction == "up"
        self.codes = NodeCodes(layers + 1, size)
        self.mass = self._start()
        #: Upwards: the part of each state that comes from the root by all links, drawn or not.
        self.reach = self.mass.copy()
        self.batches: list[LinkBatch] = []
        self.count = 0
        self.fallback: list[Ints] = []

    def _start(self) -> Doubles:
        mass = np.zeros(self.codes.count)
        mass[self.codes.of("block", self.row, np.array(self.roots))] = (
            1.0 if self.up else 1.0 / len(self.roots)
        )
        return mass

    def carrying(self, kind: str, depth: int) -> Ints:
        """Positions at which nodes of this kind and depth carry mass, ascending."""
        first = int(self.codes.of(kind, depth, 0))
        here: Ints = np.flatnonzero(self.mass[first : first + self.codes.size] > 0.0)
        return here

    def add(self, batch: LinkBatch) -> None:
        """Add links, and carry the mass of their start nodes along them."""
        start, end = self._from_and_to(batch)
        batch.flow = self.mass[start] * batch.share
        np.add.at(self.mass, end, batch.flow)
        self.batches.append(batch)
        self.count += len(batch.flow)

    def _from_and_to(self, batch: LinkBatch) -> tuple[Ints, Ints]:
        """The nodes that mass leaves, and those that it enters."""
        return (batch.source, batch.target) if self.up else (batch.target, batch.source)

    def cut(self, budget: int) -> None:
        """Keep the ``budget`` links of largest flow, the earlier of equal ones."""
        if self.count > budget:
            self.batches, self.count = self._largest(budget), budget

    def follow(self, known: list[LinkBatch], many: int) -> int:
        """Carry the mass again, along the ``many`` largest of the known links alone.

        Returns:
            How many of them the mass reaches.
        """
        self.batches, self.mass = known, self._start()
        chosen, self.batches, self.count = self._largest(many), [], 0
        for batch in chosen:
            self.add(batch.only(self.mass[self._from_and_to(batch)[0]] > 0.0))
        return self.count

    def _largest(self, many: int) -> list[LinkBatch]:
        """The ``many`` largest links, chosen so that each is connected to a root.

        A link is ranked by the smallest flow on the best path to it. Ranked by its own flow, a
        strong link far from the root could be kept while the weak links that lead to it are cut.
        """
        widths = self._widths()
        kept = np.zeros(len(widths), bool)
        kept[np.argsort(-widths, kind="stable")[:many]] = True
        ends = np.cumsum([len(batch.flow) for batch in self.batches])[:-1]
        pairs = zip(self.batches, np.split(kept, ends), strict=True)
        return [batch.only(piece) for batch, piece in pairs if piece.any()]

    def _widths(self) -> Doubles:
        """Each link's flow, or that of the narrowest link on the widest path from a root to it."""
        reached = np.where(self._start() > 0.0, np.inf, 0.0)
        found = []
        for batch in self.batches:
            start, end = self._from_and_to(batch)
            width = np.minimum(batch.flow, reached[start])
            np.maximum.at(reached, end, width)
            found.append(width)
        return np.concatenate(found)


def root_positions(spec: FlowSpec, size: int) -> tuple[int, ...]:
    """Positions of the roots, ascending, counted from the start.

    Raises:
        SpecError: If one does not exist or is named twice.
    """
    given = (spec.position,) if isinstance(spec.position, int) else spec.position
    roots = tuple(sorted(resolve_index("Position", pos, size) for pos in given))
    if len(set(roots)) < len(roots):
        raise SpecError("A root position is named twice.", "Name each once.")
    return roots


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
