"""The states that the reports on carries look at: rows, writers and heads, by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from analysis.contract.results import Floats
from analysis.errors import SpecError
from analysis.model.handle import Model
from analysis.model.module_io import linear_weights
from analysis.tasks.batch import States, states
from analysis.tasks.sum_table import Table
from analysis.tracing.heads import has_heads

KINDS = ("row", "attention", "head", "mlp")
#: A model with more parts than this is looked at without its heads, unless one asks for them.
MOST_PARTS = 100


@dataclass(frozen=True, slots=True)
class Component:
    """A residual row, an attention or MLP output, or one head's part of the former.

    Attributes:
        kind: One of ``KINDS``.
        index: The row, or the layer.
        head: For a head.
    """

    kind: str
    index: int
    head: int | None = None

    @property
    def name(self) -> str:
        """What it is called: row 1, head 0.3, mlp 1."""
        return f"{self.kind} {self.index}" + ("" if self.head is None else f".{self.head}")


def all_of(model: Model, kinds: tuple[str, ...] = KINDS) -> tuple[Component, ...]:
    """A model's components in the order in which they come about."""
    found = [Component("row", 0)]
    for layer in range(model.info.layers):
        found.append(Component("attention", layer))
        if has_heads(model, layer):
            found += [Component("head", layer, head) for head in range(model.info.heads)]
        found += [Component("mlp", layer), Component("row", layer + 1)]
    return tuple(component for component in found if component.kind in kinds)


def affordable(model: Model) -> tuple[Component, ...]:
    """All of a small model's components, and a large one's but for its heads."""
    every = all_of(model)
    return every if len(every) <= MOST_PARTS else all_of(model, ("row", "attention", "mlp"))


def named(model: Model, name: str) -> Component:
    """A component by its name.

    Raises:
        SpecError: If the model has none of that name.
    """
    found = next((one for one in all_of(model) if one.name == name), None)
    if found is None:
        raise SpecError(
            f"This model has no component called {name!r}.",
            "Write it as row 1, attention 0, head 0.3 or mlp 1.",
        )
    return found


def collect(
    model: Model,
    sums: Table,
    wanted: tuple[Component, ...],
    label: str,
    places: Sequence[int] | None = None,
) -> dict[Component, Floats]:
    """[sum, place, d_model] of each component over all sums (a head: through W_O, no bias).

    ``places``: which positions; all unless given.
    """
    where = list(range(len(sums.places)) if places is None else places)
    size = (len(sums.a), len(where), model.info.d_model)
    found = {component: np.empty(size, np.float32) for component in wanted}
    whole = any(component.kind != "row" for component in wanted)
    since = min(where)
    for batch in states(model, sums.token_ids, whole=whole, label=label, since=since):
        kept = [place - batch.first for place in where]
        for component, values in _of(model, batch, wanted):
            found[component][list(batch.which)] = values[:, kept]
    return found


def _of(
    model: Model, batch: States, wanted: tuple[Component, ...]
) -> Iterator[tuple[Component, Floats]]:
    for component in wanted:
        if component.kind == "row":
            yield component, batch.resid[:, component.index]
        elif component.kind == "attention":
            yield component, batch.attn_out[:, component.index]
        elif component.kind == "mlp":
            yield component, batch.mlp_out[:, component.index]
        else:
            yield component, _head(model, batch, component)


@torch.no_grad()
def _head(model: Model, batch: States, component: Component) -> Floats:
    block, head = model.stream.blocks[component.index], component.head or 0
    weight, _ = linear_weights(block.projection, block.heads * block.d_head)
    own = weight.view(block.heads, block.d_head, -1)[head]
    shared = head // (block.heads // block.kv_heads)
    pattern = torch.from_numpy(batch.pattern[:, component.index, head])
    value = torch.from_numpy(batch.value[:, component.index, shared])
    output: Floats = (pattern @ value @ own * block.attention_scale).numpy()
    return output
