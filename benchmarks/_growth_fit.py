"""How a cost grows: the exponents of curves, and laws that forecast larger models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from benchmarks._random_models import Shape

#: A term of a law: of a model and a number of tokens.
Term = Callable[[Shape, int], float]

TERMS: dict[str, Term] = {
    "constant": lambda shape, tokens: 1.0,
    "layers": lambda shape, tokens: shape.layers,
    "block weights": lambda shape, tokens: shape.layers * shape.block,
    "all weights": lambda shape, tokens: shape.parameters,
    "vocabulary weights": lambda shape, tokens: shape.vocabulary * shape.width,
    "tokens · block weights": lambda shape, tokens: tokens * shape.layers * shape.block,
    "tokens · layers · width": lambda shape, tokens: tokens * shape.layers * shape.width,
    "tokens² · layers · heads": lambda shape, tokens: tokens**2 * shape.layers * shape.all_heads,
    "tokens · vocabulary": lambda shape, tokens: tokens * shape.vocabulary,
    "logits": lambda shape, tokens: tokens * shape.vocabulary * shape.width,
    "cells": lambda shape, tokens: tokens * (shape.layers + 1),
    "cells · vocabulary": lambda shape, tokens: tokens * (shape.layers + 1) * shape.vocabulary,
    "cells · vocabulary weights": lambda shape, tokens: (
        tokens * (shape.layers + 1) * shape.vocabulary * shape.width
    ),
}
#: Step -> the terms of its seconds, and those of its bytes, by its arithmetic.
SECONDS: dict[str, tuple[str, ...]] = {
    "load": ("constant", "layers", "all weights"),
    "trace": (
        "layers",
        "block weights",
        "tokens · block weights",
        "vocabulary weights",
        "logits",
        "tokens² · layers · heads",
    ),
    "grid": ("constant", "cells", "cells · vocabulary", "cells · vocabulary weights"),
}
BYTES: dict[str, tuple[str, ...]] = {
    "load": ("constant", "all weights"),
    "trace": ("tokens · layers · width", "tokens² · layers · heads", "tokens · vocabulary"),
    "grid": ("constant", "tokens · vocabulary", "cells"),
}


@dataclass(frozen=True, slots=True)
class Exponent:
    """The line through a curve on logarithmic axes.

    Attributes:
        slope: The exponent.
        residual: Root mean square of the relative distances from the line.
    """

    slope: float
    residual: float

    @classmethod
    def of(cls, sizes: Sequence[float], costs: Sequence[float]) -> Exponent:
        """Fit by least squares of the logarithms."""
        x, y = np.log(np.asarray(sizes, float)), np.log(np.asarray(costs, float))
        line = np.polyfit(x, y, 1)
        rest = y - np.polyval(line, x)
        return cls(float(line[0]), float(np.sqrt(np.mean(np.expm1(rest) ** 2))))

    def __str__(self) -> str:
        return f"{round(self.slope, 2) + 0.0:.2f} (±{self.residual:.0%})"


@dataclass(frozen=True, slots=True)
class Law:
    """A cost as a sum of terms, each with a factor of at least 0.

    Attributes:
        factors: Term -> factor.
        residual: Largest relative error on the measurements.
    """

    factors: dict[str, float]
    residual: float

    @classmethod
    def fit(
        cls, names: Sequence[str], points: Sequence[tuple[Shape, int]], costs: Sequence[float]
    ) -> Law:
        """Fit by least squares of the relative errors.

        Of all choices of terms whose factors come out positive, the best one is the exact solution
        of non-negative least squares.
        """
        y = np.asarray(costs, float)
        table = np.array([[TERMS[name](*point) for name in names] for point in points]) / y[:, None]
        scale = table.max(0)
        best, least = np.zeros(len(names)), np.inf
        for chosen in _subsets(len(names)):
            some = table[:, chosen] / scale[chosen]
            found = np.linalg.lstsq(some, np.ones(len(y)), rcond=None)[0]
            error = float(((some @ found - 1) ** 2).sum())
            if (found > 0).all() and error < least:
                best, least = np.zeros(len(names)), error
                best[chosen] = found / scale[chosen]
        kept = {name: float(best[n]) for n, name in enumerate(names) if best[n]}
        return cls(kept, float(np.abs(table @ best - 1).max()))

    def __call__(self, shape: Shape, tokens: int) -> float:
        """Return the cost of a model and a number of tokens."""
        return sum(factor * TERMS[name](shape, tokens) for name, factor in self.factors.items())


def _subsets(count: int) -> Iterable[list[int]]:
    for size in range(1, count + 1):
        yield from (list(some) for some in combinations(range(count), size))
