"""Attention edges cut in small parts, on any model, without code of ``flow_graph``.

A forward pass with an edge masked gives the head's mixed value without it. A second pass moves the
mixed value a part of the way there. Moving it the whole way must give the logits of the first pass:
this shows that nothing else reads the pattern.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import analysis
from analysis.model.attention_hooks import observing
from analysis.model.handle import Model
from tests.support import every_architecture

#: Parts of a cut on either side of a central difference. A router that chooses other experts within
#: the larger step spoils it; the smaller one has more rounding.
STEPS = (0.02, 0.002)


class Edge(NamedTuple):
    """An edge of one head."""

    layer: int
    head: int
    query: int
    key: int


@dataclass
class _Tap:
    """Masks an edge, or moves the mixed value of its head and query by ``change`` [d]."""

    model: Model
    edge: Edge
    masks: bool = False
    change: Tensor | None = None
    mixed: Tensor | None = None

    def _here(self, module: Any) -> bool:
        return self.model.stream.layer(module) == self.edge.layer

    def cut(self, module: Any, shape: tuple[int, int, int]) -> Tensor | None:
        """The edge, in its layer."""
        if not (self.masks and self._here(module)):
            return None
        cut = torch.zeros(1, *shape, dtype=torch.bool)
        cut[0, self.edge.head, self.edge.query, self.edge.key] = True
        return cut

    def observe(self, module: Any, value: Tensor, pattern: Tensor, output: Tensor) -> Tensor | None:
        """Keep the head's mixed value; move it if there is a change."""
        if not self._here(module):
            return None
        place = 0, self.edge.query, self.edge.head
        self.mixed = output[place].clone()
        if self.change is None:
            return None
        moved = output.clone()
        moved[place] += self.change
        return moved


def logits(model: Model, ids: tuple[int, ...], edge: Edge, **options: Any) -> tuple[Tensor, Tensor]:
    """[vocab] at the last position, and [d] the mixed value of the edge's head and query."""
    tap, stream = _Tap(model, edge, **options), model.stream
    with torch.no_grad(), observing(stream.attending, tap, by_hooks=stream.by_hooks):
        found: Tensor = model.hf(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
    assert tap.mixed is not None
    return found.double(), tap.mixed


def strongest(model: Model, ids: tuple[int, ...], count: int) -> tuple[dict[Edge, float], int, int]:
    """Edges with the largest estimates, one per query at most; and the token and foil."""
    run = analysis.trace(model, ids)
    token, foil = int(run.logits[-1].argmax()), int(run.logits[-1].argmin())
    graph = analysis.flow(
        model, run, method="effect", token=token, foil=foil, exact=False, per_head=True
    )
    found: dict[Edge, float] = {}
    links = [link for link in graph.links if link.kind == "attention" and link.target_pos]
    for link in sorted(links, key=lambda link: -abs(link.flow)):
        edge = Edge(link.layer, link.head or 0, link.target_pos, link.source_pos)
        if len(found) < count and edge[:3] not in {one[:3] for one in found}:
            found[edge] = link.flow
    return found, token, foil


def errors(model: Model, count: int = 8, size: int = 8) -> tuple[float, float]:
    """Errors of the strongest edges' estimates, and of the cuts that they are compared with.

    Returns:
        The median relative error of estimate against slope; and the largest difference between a
        pass with an edge masked and one with its mixed value moved, relative to the logits.
    """
    ids = every_architecture.prompt(size)
    edges, token, foil = strongest(model, ids, count)
    if not edges:
        return 0.0, 0.0
    found, moved = [], []
    for edge, estimate in edges.items():
        before, mixed = logits(model, ids, edge)
        masked, without = logits(model, ids, edge, masks=True)
        change = without - mixed
        whole, _ = logits(model, ids, edge, change=change)
        moved.append(float((whole - masked).abs().max() / before.abs().max()))
        slopes = []
        for step in STEPS:
            ends = [logits(model, ids, edge, change=part * change)[0] for part in (-step, step)]
            lead = [float(end[token] - end[foil]) for end in ends]
            slopes.append((lead[0] - lead[1]) / (2 * step))
        found.append(min(abs(slope - estimate) for slope in slopes) / abs(estimate))
    return float(np.median(found)), max(moved)
