"""The interventions as frozen descriptions: what is changed, and where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from analysis.errors import SpecError
from analysis.tracing.options import ABLATION_VALUES, INJECTION_MODES

Where = int | tuple[int, ...] | None
_ALIASES = {
    "attention": "attention_output",
    "mlp": "mlp_output",
    "head": "head_output",
}


@dataclass(frozen=True)
class Ablate:
    """Replace what a component adds to the stream.

    Attributes:
        component: "attention_output", "mlp_output" or "head_output".
        layer: Its block.
        head: Which head, for ``head_output``.
        pos: One position, several, or None for all.
        value: "zero", or "mean" over the positions of the same run. A head's mean is taken
            before the output projection.
    """

    component: str
    layer: int
    head: int | None = None
    pos: Where = None
    value: str = "zero"

    def __post_init__(self) -> None:
        component = _ALIASES.get(self.component, self.component)
        if component not in _ALIASES.values():
            raise SpecError(
                f"The component {self.component!r} can't be ablated.",
                f"Choose one of: {', '.join(_ALIASES.values())}.",
            )
        if (component == "head_output") != (self.head is not None):
            raise SpecError(
                "A head goes with the component head_output, and with no other.", "Name a head."
            )
        ABLATION_VALUES.check(self.value)
        object.__setattr__(self, "component", component)


@dataclass(frozen=True)
class KnockOut:
    """Cut an attention edge before the softmax; the rest of the row is renormalised by it.

    Attributes:
        layer: The block.
        head: The head; None for all heads.
        query: Position that reads.
        key: Position that is no longer read.
    """

    layer: int
    head: int | None
    query: int
    key: int


@dataclass(frozen=True, eq=False)
class Patch:
    """Put a state of another run into this one (activation patching).

    Attributes:
        row: Residual row.
        pos: Positions to overwrite; None for all (both runs must be as long).
        source: The other run's ``Trace``, or the states themselves, [d_model] or [pos, d_model].
        source_pos: Where in ``source`` to read; the same positions unless given.
    """

    row: int
    pos: Where
    source: Any
    source_pos: Where = None


@dataclass(frozen=True)
class Inject:
    """Put a token's embedding into a state (InTraVisTo's injection).

    Attributes:
        row: Residual row.
        pos: Positions; None for all.
        token: The token's id.
        mode: "replace" puts the token's input embedding in the state's place. "main_component"
            turns only the state's largest unembedding direction f, the unit row of its top
            token, into the token's unit row e: ``h + <h, f> (e - f)``.
    """

    row: int
    pos: Where
    token: int
    mode: str = "replace"

    def __post_init__(self) -> None:
        INJECTION_MODES.check(self.mode)


@dataclass(frozen=True, eq=False)
class Steer:
    """Add a vector to a state.

    Attributes:
        row: Residual row.
        pos: Positions; None for all.
        vector: [d_model].
    """

    row: int
    pos: Where
    vector: Any


Intervention = Ablate | KnockOut | Patch | Inject | Steer
