"""Positions that soak attention up."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.results.base import Floats, check_shape


@dataclass(frozen=True, slots=True)
class Sinks:
    """Which positions take attention, or norm, out of all proportion.

    Attributes:
        positions: Those that count as sinks, ascending.
        received: [pos] mean attention that later positions pay to it, over layers and heads, 0 to
            1; NaN where nothing comes later.
        even: [pos] what it would be if every position were attended to alike.
        norm_ratio: [pos] largest norm of its state over the median of the same row.
        attention_mass: Part of all attention paid to other positions that goes to sinks, 0 to 1.
    """

    positions: tuple[int, ...]
    received: Floats
    even: Floats
    norm_ratio: Floats
    attention_mass: float

    def __post_init__(self) -> None:
        for name in ("even", "norm_ratio"):
            check_shape(name, getattr(self, name), self.received.shape)
