"""Sums laid out for the reports on carries: all of one length, every position named by its part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.errors import SpecError
from analysis.models.handle import Model
from analysis.results.base import Ints
from analysis.tasks import addition, suites
from analysis.tasks.prompts import Encoded, encode


@dataclass(frozen=True, eq=False)
class Table:
    """Sums of equal length.

    Attributes:
        a, b: [sum] operands.
        digits: Of each operand.
        encoded: [sum] prompt and right answer as tokens.
        places: Names of all positions.
        answers: Position of each answer column's digit token, the units first.
    """

    a: Ints
    b: Ints
    digits: int
    encoded: tuple[Encoded, ...]
    places: tuple[str, ...]
    answers: tuple[int, ...]

    @property
    def carry(self) -> Ints:
        """[sum, digits + 1] the carry into each column."""
        return addition.carries(self.a, self.b, self.digits)

    @property
    def sums(self) -> Ints:
        """[sum, digits] the raw digit sums."""
        return addition.digit_sums(self.a, self.b, self.digits)

    @property
    def token_ids(self) -> list[tuple[int, ...]]:
        """[sum] tokens of prompt and answer."""
        return [one.token_ids for one in self.encoded]

    def part(self, places: np.ndarray) -> Table:
        """Only some of the sums."""
        encoded = tuple(self.encoded[place] for place in places)
        return Table(
            self.a[places], self.b[places], self.digits, encoded, self.places, self.answers
        )


def table(model: Model, a: Ints, b: Ints, digits: int, *, padded: bool) -> Table:
    """Lay out sums for a model.

    Raises:
        SpecError: If they don't all take the same tokens, one for each digit.
    """
    encoded = tuple(
        encode(model.tokenizer, suites.written(int(x), int(y), "+", int(x + y), digits, padded))
        for x, y in zip(a, b, strict=True)
    )
    first = encoded[0]
    columns = [name for name in first.places if name.startswith("answer")]
    lone = all(len(first.places[name]) == 1 for name in columns)
    alike = all(
        len(one.token_ids) == len(first.token_ids) and one.places == first.places for one in encoded
    )
    if not (lone and alike and columns):
        raise SpecError(
            "These sums don't have one token for each digit at the same positions.",
            "Use a model that splits numbers into digits.",
        )
    answers = tuple(first.places[f"answer{column}"][0] for column in range(len(columns)))
    return Table(np.asarray(a), np.asarray(b), digits, encoded, _names(model, first), answers)


def _names(model: Model, one: Encoded) -> tuple[str, ...]:
    names = [model.tokenizer.decode([token]) for token in one.token_ids]
    for name, positions in one.places.items():
        for position in positions:
            names[position] = name
    return tuple(names)


def drawn(
    model: Model, count: int, seed: int, digits: int, *, padded: bool, chains: float = 0.5
) -> Table:
    """Held-out sums for a model: those that training never saw, half of them rich in chains.

    Not padded: operands without leading zeros whose sum is one digit longer or not, whichever
    is more frequent among the draws, so that all have equal length.
    """
    rng = np.random.default_rng([seed, 101])
    a, b = addition.draw(rng, 4 * count + 100, "test", digits, chains)
    if not padded:
        low = 10 ** (digits - 1)
        fits = (a >= low) & (b >= low) & (a + b >= 10**digits)
        a, b = a[fits], b[fits]
    return table(model, a[:count], b[:count], digits, padded=padded)


def operand_digits(model: Model) -> int | None:
    """How many digits the trained adder pads operands to, by its config; None for other models."""
    found = getattr(model.hf.config, "operand_digits", None)
    return None if found is None else int(found)
