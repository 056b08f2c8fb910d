"""Change a forward pass at chosen places, and leave the model as it was.

Ablation (zero or mean) of a head, an attention output or an MLP; knock-out of
attention edges before the softmax; activation patching of a state from another
run; injection of a token's embedding; steering by a vector. Each is a frozen
description; ``applied`` puts a list of them around any forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from analysis.edits import Edits
from analysis.intervention_kinds import (
    Ablate,
    Inject,
    Intervention,
    KnockOut,
    Patch,
    Steer,
)
from analysis.models.handle import Model
from analysis.models.watching import listening_to

__all__ = [
    "Ablate",
    "Edits",
    "Inject",
    "Intervention",
    "KnockOut",
    "Patch",
    "Steer",
    "applied",
]


@contextmanager
def applied(model: Model, interventions: Sequence[Any], length: int = 0) -> Iterator[Edits]:
    """Hold interventions on a model around any forward pass of yours.

    Args:
        model: From ``load_model``.
        interventions: A list for one sequence, or a list of lists, one for each of a batch.
        length: The sequence's length, to check positions against; 0 to leave that out.

    Raises:
        SpecError: If one names a layer, head or position that does not exist.
    """
    edits = Edits(model, interventions, length)
    tap, stream = _EditTap(edits), model.stream
    with (
        model.lock,
        edits.applied(),
        listening_to(stream.attending, tap, by_hooks=stream.by_hooks),
    ):
        yield edits


class _EditTap:
    """Cuts edges, records nothing."""

    def __init__(self, edits: Edits) -> None:
        self.edits = edits

    def mask(self, module: Any, scores: tuple[int, int, int], mask: Any) -> Any:
        """The mask with this layer's knocked-out links in it."""
        return self.edits.mask(self.edits.model.stream.layer(module), scores, mask)

    def seen(self, module: Any, value: Tensor, pattern: Tensor, output: Tensor) -> None:
        """Look at no pattern: an intervention only changes the mask."""
