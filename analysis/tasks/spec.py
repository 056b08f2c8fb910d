"""What is asked of a suite, importable without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from analysis.errors import SpecError
from analysis.specs import choose

Measure = Literal["saturation", "first_top1"]
#: A person's job must leave the queue in minutes.
MOST_PROMPTS = 2000


@dataclass(frozen=True, slots=True)
class SuiteSpec:
    """A suite drawn by its name, size and seed, run on one model.

    Attributes:
        model: As in ``RunSpec``.
        suite: One of ``suites.NAMES``.
        size: Prompts.
        seed: Of the drawing.
        digits: Of each operand; the trained adder's own count goes ahead.
        measure: What "has come up" means in the emergence curves.
    """

    model: str
    suite: str
    size: int = 100
    seed: int = 0
    digits: int = 3
    measure: Measure = "saturation"

    def __post_init__(self) -> None:
        choose("The measure", self.measure, Measure)
        if not 1 <= self.size <= MOST_PROMPTS:
            raise SpecError(f"A suite can't have {self.size} prompts.", f"Use 1 to {MOST_PROMPTS}.")
