"""The components of a model as senders and receivers, and the edges between them.

A sender is what writes to the residual stream: the embedding, each head, each MLP. A receiver is an
input that reads it: the query, key and value of each head, each MLP, and the answer. Every receiver
reads the sum of all senders before it. So an edge is a sender, a receiver and a position. The key
and the value at a position reach their head at this position and at all later ones.

Importable without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.contract.specs import Ints

#: The inputs of a head, in the order of its receivers.
HEAD_INPUTS = ("query", "key", "value")
Bools = NDArray[np.bool_]


class Sender(NamedTuple):
    """What writes: ``kind`` is "embedding", "head" or "mlp"."""

    kind: str
    layer: int
    head: int

    @property
    def name(self) -> str:
        """Such as "embedding", "head 3.5" or "mlp 3"."""
        place = {"embedding": "", "head": f" {self.layer}.{self.head}"}
        return self.kind + place.get(self.kind, f" {self.layer}")


class Receiver(NamedTuple):
    """What reads: ``kind`` is "query", "key", "value", "mlp" or "answer"."""

    kind: str
    layer: int
    head: int
    reads: int
    owner: int

    @property
    def name(self) -> str:
        """Such as "head 3.5 query", "mlp 3" or "answer"."""
        if self.kind == "answer":
            return self.kind
        return f"mlp {self.layer}" if self.kind == "mlp" else (
            f"head {self.layer}.{self.head} {self.kind}"
        )  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """All senders and receivers of a model, in the order in which they run.

    Attributes:
        heads: [layer] number of heads.
        mlps: [layer] whether the block has an MLP.
        parallel: Whether the MLP reads the same state as attention.
    """

    heads: tuple[int, ...]
    mlps: tuple[bool, ...]
    parallel: bool

    @cached_property
    def senders(self) -> tuple[Sender, ...]:
        """[sender]."""
        found = [Sender("embedding", -1, -1)]
        for layer, (heads, mlp) in enumerate(zip(self.heads, self.mlps, strict=True)):
            found += [Sender("head", layer, head) for head in range(heads)]
            found += [Sender("mlp", layer, -1)] * mlp
        return tuple(found)

    @cached_property
    def receivers(self) -> tuple[Receiver, ...]:
        """[receiver]; ``reads`` is the number of senders before it, ``owner`` its own sender."""
        found: list[Receiver] = []
        for layer, (heads, mlp) in enumerate(zip(self.heads, self.mlps, strict=True)):
            start = self.first_sender[layer]
            found += [
                Receiver(kind, layer, head, start, start + head)
                for head in range(heads)
                for kind in HEAD_INPUTS
            ]
            if mlp:
                reads = start if self.parallel else start + heads
                found.append(Receiver("mlp", layer, -1, reads, start + heads))
        found.append(Receiver("answer", len(self.heads), -1, len(self.senders), -1))
        return tuple(found)

    @cached_property
    def first_sender(self) -> Ints:
        """[layer + 1] the first sender of each layer; the embedding is sender 0."""
        counts = [heads + mlp for heads, mlp in zip(self.heads, self.mlps, strict=True)]
        return 1 + np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)

    @cached_property
    def first_receiver(self) -> Ints:
        """[layer + 1] the first receiver of each layer; the answer is the last receiver."""
        counts = [3 * heads + mlp for heads, mlp in zip(self.heads, self.mlps, strict=True)]
        return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of receivers and senders."""
        return len(self.receivers), len(self.senders)

    @cached_property
    def reads(self) -> Ints:
        """[receiver] number of senders that it reads."""
        return np.array([one.reads for one in self.receivers], np.int64)

    def possible(self, positions: int) -> int:
        """Number of edges; the answer reads at the last position only."""
        return int(self.reads[:-1].sum()) * positions + int(self.reads[-1])

    def all_edges(self, positions: int) -> Ints:
        """[edge] codes of all edges."""
        exists = np.zeros((*self.shape, positions), bool)
        exists[:-1] = (np.arange(self.shape[1]) < self.reads[:-1, None])[..., None]
        exists[-1, :, -1] = True
        return np.flatnonzero(exists).astype(np.int64)

    def code(self, receiver: Any, sender: Any, pos: Any, positions: int) -> Any:
        """The code of an edge: its place in an array [receiver, sender, pos]."""
        return (receiver * self.shape[1] + sender) * positions + pos

    def split(self, codes: Ints, positions: int) -> tuple[Ints, Ints, Ints]:
        """Receivers, senders and positions of codes."""
        pair, pos = np.divmod(codes, positions)
        receiver, sender = np.divmod(pair, self.shape[1])
        return receiver, sender, pos

    def at_all_positions(self, codes: Ints, positions: int) -> Ints:
        """Codes of one position, repeated at all ``positions``; the answer only at the last."""
        pairs = codes[:, None] * positions + np.arange(positions)
        answer = codes // self.shape[1] == self.shape[0] - 1
        return np.concatenate([pairs[~answer].ravel(), pairs[answer][:, -1]])


@dataclass(frozen=True)
class Lead:
    """What is measured: the lead of one token's logit over another's at the last position."""

    answer: int
    foil: int

    def of(self, logits: Any) -> Any:
        """[...] from logits [..., vocab]."""
        return logits[..., self.answer] - logits[..., self.foil]


def pruned(layout: Layout, codes: Ints, positions: int) -> Ints:
    """The edges that lie on a path from the embedding to the answer.

    Args:
        layout: The model's components.
        codes: [edge] codes of a graph.
        positions: Number of positions.
    """
    here = np.zeros((*layout.shape, positions), bool)
    here.ravel()[codes] = True
    reached, into = _reached(layout, here)
    leads = _leading(layout, here, into)
    here &= reached[None] & leads[:, None]
    return np.flatnonzero(here).astype(np.int64)


def _reached(layout: Layout, here: Bools) -> tuple[Bools, Bools]:
    """[sender, pos] whether a path from the embedding ends there; [receiver, pos] likewise."""
    reached = np.zeros(here.shape[1:], bool)
    into = np.zeros((here.shape[0], here.shape[2]), bool)
    reached[0] = True
    for number, one in enumerate(layout.receivers):
        into[number] = (here[number, : one.reads] & reached[: one.reads]).any(0)
        if one.kind in ("query", "mlp"):
            reached[one.owner] |= into[number]
        elif one.owner >= 0:
            reached[one.owner] |= np.maximum.accumulate(into[number])
    return reached, into


def _leading(layout: Layout, here: Bools, into: Bools) -> Bools:
    """[receiver, pos] whether a path from there ends at the answer."""
    leads = np.zeros_like(into)
    ends = np.zeros(here.shape[1:], bool)  # [sender, pos]
    for number in range(len(layout.receivers) - 1, -1, -1):
        one = layout.receivers[number]
        if one.owner < 0:
            leads[number, -1] = True
        elif one.kind in ("query", "mlp"):
            leads[number] = ends[one.owner]
        else:
            leads[number] = np.maximum.accumulate(ends[one.owner][::-1])[::-1]
        ends[: one.reads] |= here[number, : one.reads] & leads[number]
    return leads


def largest(layout: Layout, ranked: Ints, count: int, positions: int) -> Ints:
    """The largest pruned graph of the first edges of a ranking that has at most ``count`` edges.

    Args:
        layout: The model's components.
        ranked: [edge] codes, the strongest first.
        count: Number of edges.
        positions: Number of positions.
    """
    low, high = min(count, len(ranked)), len(ranked)
    best = pruned(layout, ranked[:low], positions)
    while len(best) < count and low < high:
        middle = min(low + max(count - len(best), (high - low) // 2), high)
        found = pruned(layout, ranked[:middle], positions)
        if len(found) <= count:
            low, best = middle, found
        else:
            high = middle - 1
    return best


class Growing:
    """A graph to which edges are added one at a time; it knows which lie on a whole path.

    Args:
        layout: The model's components.
        positions: Number of positions.
    """

    def __init__(self, layout: Layout, positions: int) -> None:
        self.layout, self.positions = layout, positions
        nodes = (layout.shape[1], positions)
        self._reached, self._leads = np.zeros(nodes, bool), np.zeros(nodes, bool)
        self._reached[0] = True
        self._out: dict[tuple[int, int], list[int]] = {}
        self._in: dict[int, list[int]] = {}
        self.alive: dict[int, None] = {}

    def add(self, code: int) -> list[int]:
        """Add an edge; the codes of the edges that now lie on a path, in no order."""
        receiver, sender, pos = self._parts(code)
        self._out.setdefault((sender, pos), []).append(code)
        self._in.setdefault(self.layout.receivers[receiver].owner, []).append(code)
        changed = [code]
        if self._reached[sender, pos]:
            changed += self._spread(code)
        if self._ends(receiver, pos):
            changed += self._trace_back(sender, pos)
        new = [one for one in changed if one not in self.alive and self._whole(one)]
        self.alive.update(dict.fromkeys(new))
        return list(dict.fromkeys(new))

    def _parts(self, code: int) -> tuple[int, int, int]:
        pair, pos = divmod(code, self.positions)
        receiver, sender = divmod(pair, self.layout.shape[1])
        return receiver, sender, pos

    def _whole(self, code: int) -> bool:
        receiver, sender, pos = self._parts(code)
        return bool(self._reached[sender, pos]) and self._ends(receiver, pos)

    def _nodes(self, receiver: int, pos: int) -> range:
        """Positions of the owner that a receiver changes."""
        kind = self.layout.receivers[receiver].kind
        return range(pos, pos + 1 if kind in ("query", "mlp") else self.positions)

    def _ends(self, receiver: int, pos: int) -> bool:
        owner = self.layout.receivers[receiver].owner
        if owner < 0:
            return pos == self.positions - 1
        places = self._nodes(receiver, pos)
        return bool(self._leads[owner, places.start : places.stop].any())

    def _spread(self, code: int) -> list[int]:
        """Mark what an edge from a reached sender reaches; the edges that leave it."""
        waiting, changed = [code], []
        while waiting:
            receiver, _, pos = self._parts(waiting.pop())
            owner = self.layout.receivers[receiver].owner
            for place in self._nodes(receiver, pos) if owner >= 0 else ():
                if not self._reached[owner, place]:
                    self._reached[owner, place] = True
                    leaving = self._out.get((owner, place), [])
                    waiting += leaving
                    changed += leaving
        return changed

    def _trace_back(self, sender: int, pos: int) -> list[int]:
        """Mark a sender that leads to the answer, and what leads to it; the edges that enter."""
        waiting, changed = [(sender, pos)], []
        while waiting:
            node = waiting.pop()
            if self._leads[node]:
                continue
            self._leads[node] = True
            for code in self._in.get(node[0], []):
                receiver, source, place = self._parts(code)
                if node[1] in self._nodes(receiver, place):
                    changed.append(code)
                    waiting.append((source, place))
        return changed


def grown(layout: Layout, ranked: Ints, count: int, positions: int) -> tuple[Ints, Ints]:
    """The edges of the largest pruned graph with at most ``count`` edges, in the order they enter.

    Returns:
        [edge] codes; and [edge] the number of edges of the smallest graph that has the edge.
    """
    graph, order, sizes = Growing(layout, positions), [], []
    for code in ranked.tolist():
        new = graph.add(code)
        if len(graph.alive) > count:
            break
        order += new
        sizes += [len(graph.alive)] * len(new)
        if len(graph.alive) == count:
            break
    return np.array(order, np.int64), np.array(sizes, np.int64)


def random_graph(
    layout: Layout, count: int, positions: int, generator: np.random.Generator
) -> Ints:
    """A random graph of about ``count`` edges, all on paths from the embedding to the answer.

    Small graphs are made of random walks from the answer back to the embedding: few of the edges
    drawn at random would lie on a whole path. Large graphs are drawn edge by edge, and pruned.
    """
    every = layout.possible(positions)
    if count >= every:
        return layout.all_edges(positions)
    if count > every // 20:
        ranked = generator.permutation(layout.all_edges(positions))
        drawn = largest(layout, ranked, count, positions)
        if len(drawn) > 0.9 * count:
            return drawn
    found: dict[int, None] = {}
    while len(found) < count:
        for code in _walk(layout, positions, generator):
            if len(found) < count:
                found[code] = None
    # The last walk may have been cut short.
    return pruned(layout, np.array(sorted(found), np.int64), positions)


def _walk(layout: Layout, positions: int, generator: np.random.Generator) -> list[int]:
    """Codes of the edges of a random path, from the answer back to the embedding."""
    receiver, pos, codes = len(layout.receivers) - 1, positions - 1, []
    draw = generator.random
    while True:
        sender = int(draw() * layout.receivers[receiver].reads)
        codes.append(int(layout.code(receiver, sender, pos, positions)))
        if sender == 0:
            return codes
        receiver = _input_of(layout, sender, int(draw() * 3))
        if layout.receivers[receiver].kind in ("key", "value"):
            pos = int(draw() * (pos + 1))


def _input_of(layout: Layout, sender: int, which: int) -> int:
    """A receiver of a sender: of a head its query (0), key (1) or value (2)."""
    kind, layer, head = layout.senders[sender]
    first = int(layout.first_receiver[layer])
    return first + 3 * head + which if kind == "head" else first + 3 * layout.heads[layer]
