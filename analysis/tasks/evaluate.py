"""How often a trained adder is right, on held-out sums, by the length of the carry chain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis import progress
from analysis.tasks import addition, digits

SUMS = 200_000
_BATCH = 4096


@dataclass(frozen=True, slots=True)
class Count:
    """How many of some sums were right."""

    right: int
    total: int

    @property
    def share(self) -> float:
        """Right ones, 0 to 1; NaN where there were none."""
        return self.right / self.total if self.total else float("nan")


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Exact answers, every digit and the end, under greedy decoding.

    Attributes:
        every: All sums.
        uniform: Those with uniform operands.
        rich: Those rich in long carry chains.
        by_chain: Index: columns that the farthest-travelling carry comes out of, 0 to digits.
        wrong: Up to 20 of the pairs that came out wrong.
    """

    every: Count
    uniform: Count
    rich: Count
    by_chain: tuple[Count, ...]
    wrong: tuple[tuple[int, int], ...]


def evaluate(
    model: Any, count: int = SUMS, seed: int = 0, operand_digits: int = addition.DIGITS
) -> Accuracy:
    """Ask for ``count`` distinct-by-seed held-out sums, the second half rich in carry chains.

    Args:
        model: The transformers model.
        count: Sums in all.
        seed: Of the sums.
        operand_digits: Digits of each operand.

    Raises:
        CancelledError: If the caller's progress listener stops the work.
    """
    half = count // 2
    plain = addition.draw(np.random.default_rng([seed, 1]), half, "test", operand_digits, 0.0)
    rich = addition.draw(np.random.default_rng([seed, 2]), count - half, "test", operand_digits, 1)
    a, b = (np.concatenate(pair) for pair in zip(plain, rich, strict=True))
    right = []
    for start in range(0, count, _BATCH):
        stop = min(start + _BATCH, count)
        right.append(digits.exact(model, a[start:stop], b[start:stop], operand_digits))
        progress.step(stop, count, "Adding held-out sums")
    return _counted(np.concatenate(right), a, b, half, operand_digits)


def _counted(right: Any, a: Any, b: Any, half: int, operand_digits: int) -> Accuracy:
    chain = addition.longest_chain(a, b, operand_digits)
    groups = [right[chain == length] for length in range(operand_digits + 1)]
    wrong = np.flatnonzero(~right)[:20]
    return Accuracy(
        _count(right),
        _count(right[:half]),
        _count(right[half:]),
        tuple(_count(group) for group in groups),
        tuple((int(a[place]), int(b[place])) for place in wrong),
    )


def _count(right: Any) -> Count:
    return Count(int(right.sum()), len(right))


def table(found: Accuracy) -> str:
    """The figures as a Markdown table."""
    rows = [
        ("all", found.every),
        ("uniform operands", found.uniform),
        ("rich in carry chains", found.rich),
        *((f"longest chain {length}", count) for length, count in enumerate(found.by_chain)),
    ]
    lines = [f"| {name} | {c.total:,} | {c.total - c.right} | {_percent(c)} |" for name, c in rows]
    return "\n".join(["| sums | asked | wrong | right |", "|---|---:|---:|---:|", *lines])


def _percent(count: Count) -> str:
    return f"{100 * count.share:.4f} %" if count.total else "-"
