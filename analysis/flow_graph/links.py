"""Links of a flow graph while it grows: node numbers, stages, the strongest links."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.contract.specs import resolve_index
from analysis.errors import SpecError
from analysis.flow_graph.results import LINK_KINDS, NODE_KINDS
from analysis.flow_graph.specs import FlowSpec

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


COLUMNS = ("kind", "layer", "head", "source", "target", "share", "flow")


@dataclass
class Stage:
    """Links added together: by each, mass passes only after all links before have passed it."""

    kind: Whole
    layer: Whole
    head: Whole
    source: Whole
    target: Whole
    share: Part
    flow: Part

    def only(self, kept: NDArray[np.bool_]) -> Stage:
        """The links that ``kept`` marks."""
        return Stage(*(getattr(self, name)[kept] for name in COLUMNS))


class Followed:
    """Mass on its way from the roots, and the stages that have passed it on.

    Stages come in an order in which all mass of a node is known before any link
    leads on from it, so one pass gives all flows.

    Args:
        spec: Pruning and direction.
        layers: Of the model.
        size: Positions.
        row: The roots' row.
        roots: Their positions.
    """

    def __init__(
        self, spec: FlowSpec, layers: int, size: int, row: int, roots: tuple[int, ...]
    ) -> None:
        self.spec, self.layers, self.row, self.roots = spec, layers, row, roots
        self.up = spec.direction == "up"
        self.codes = Codes(layers + 1, size)
        self.mass = self._start()
        #: Upwards: the root's part of each state by all links, drawn or not.
        self.reach = self.mass.copy()
        self.stages: list[Stage] = []
        self.count = 0
        self.fallback: list[Whole] = []

    def _start(self) -> Part:
        mass = np.zeros(self.codes.count)
        mass[self.codes.of("block", self.row, np.array(self.roots))] = (
            1.0 if self.up else 1.0 / len(self.roots)
        )
        return mass

    def carrying(self, kind: str, depth: int) -> Whole:
        """Positions at which nodes of this kind and depth carry mass, ascending."""
        first = int(self.codes.of(kind, depth, 0))
        here: Whole = np.flatnonzero(self.mass[first : first + self.codes.size] > 0.0)
        return here

    def add(self, stage: Stage) -> None:
        """Have a stage's links pass on what the nodes they start from carry."""
        start, end = self._ends(stage)
        stage.flow = self.mass[start] * stage.share
        np.add.at(self.mass, end, stage.flow)
        self.stages.append(stage)
        self.count += len(stage.flow)

    def _ends(self, stage: Stage) -> tuple[Whole, Whole]:
        """Where the mass comes from, and where it goes."""
        return (stage.source, stage.target) if self.up else (stage.target, stage.source)

    def cut(self, budget: int) -> None:
        """Keep so many links of largest flow, the earlier of equal ones."""
        if self.count > budget:
            self.stages, self.count = self._largest(budget), budget

    def follow(self, known: list[Stage], many: int) -> int:
        """Follow the mass again by the largest of the known links alone.

        Returns:
            How many of them it reaches.
        """
        self.stages, self.mass = known, self._start()
        chosen, self.stages, self.count = self._largest(many), [], 0
        for stage in chosen:
            self.add(stage.only(self.mass[self._ends(stage)[0]] > 0.0))
        return self.count

    def _largest(self, many: int) -> list[Stage]:
        """So many links, best first from the root: each hangs on links that are kept too.

        A link counts with the smallest flow on the best way to it. By its own flow alone a strong
        link far from the root would take the room, and be lost with the weak ones that lead to it.
        """
        widths = self._widths()
        kept = np.zeros(len(widths), bool)
        kept[np.argsort(-widths, kind="stable")[:many]] = True
        ends = np.cumsum([len(stage.flow) for stage in self.stages])[:-1]
        pairs = zip(self.stages, np.split(kept, ends), strict=True)
        return [stage.only(piece) for stage, piece in pairs if piece.any()]

    def _widths(self) -> Part:
        """Each link's flow, or that of the narrowest link on the widest way from a root to it."""
        reached = np.where(self._start() > 0.0, np.inf, 0.0)
        found = []
        for stage in self.stages:
            start, end = self._ends(stage)
            width = np.minimum(stage.flow, reached[start])
            np.maximum.at(reached, end, width)
            found.append(width)
        return np.concatenate(found)


def root_positions(spec: FlowSpec, size: int) -> tuple[int, ...]:
    """The roots' positions from the start, each once.

    Raises:
        SpecError: If one does not exist or is named twice.
    """
    given = (spec.position,) if isinstance(spec.position, int) else spec.position
    roots = tuple(sorted(resolve_index("Position", pos, size) for pos in given))
    if len(set(roots)) < len(roots):
        raise SpecError("A root position is named twice.", "Name each once.")
    return roots
