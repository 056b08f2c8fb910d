"""Sums laid out for the reports on carries: all of one length, every position named by its part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.contract.results import Ints
from analysis.errors import SpecError
from analysis.model.handle import Model
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
        texts: [sum] the prompts.
    """

    a: Ints
    b: Ints
    digits: int
    encoded: tuple[Encoded, ...]
    places: tuple[str, ...]
    answers: tuple[int, ...]
    texts: tuple[str, ...] = ()

    @property
    def own(self) -> tuple[int, ...]:
        """Positions from the first operand on: what stands before is the same in every sum."""
        start = min((p for p in self.encoded[0].places.get(f"a{self.digits - 1}", ())), default=0)
        return tuple(range(start, len(self.places)))

    @property
    def length(self) -> int:
        """Tokens of each answer."""
        return len(self.places) - self.encoded[0].start

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
        texts = tuple(self.texts[place] for place in places) if self.texts else ()
        return Table(
            self.a[places], self.b[places], self.digits, encoded, self.places, self.answers, texts
        )


def table(model: Model, a: Ints, b: Ints, digits: int, *, padded: bool) -> Table:
    """Lay out sums for a model.

    Raises:
        SpecError: If they don't all take the same tokens, one for each digit.
    """
    asked = [
        suites.written(int(x), int(y), "+", int(x + y), digits, padded)
        for x, y in zip(a, b, strict=True)
    ]
    encoded = tuple(encode(model.tokenizer, prompt) for prompt in asked)
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
    texts = tuple(prompt.text for prompt in asked)
    names = _names(model, first)
    return Table(np.asarray(a), np.asarray(b), digits, encoded, names, answers, texts)


def _names(model: Model, one: Encoded) -> tuple[str, ...]:
    names = [model.tokenizer.decode([token]) for token in one.token_ids]
    for name, positions in one.places.items():
        for position in positions:
            names[position] = name
    return tuple(names)


def drawn(
    model: Model, count: int, seed: int, digits: int, *, padded: bool, chains: float = 0.5
) -> Table:
    """Sums for a model, no pair twice, half of them rich in chains.

    Padded: held out, so that training never saw them. Not padded: operands without leading zeros
    whose sum is one digit longer than they, so that all have equal length; fewer than ``count``
    where there are not so many.

    Raises:
        SpecError: If the sums don't all take the same tokens, one for each digit.
    """
    rng = np.random.default_rng([seed, 101])
    if padded:
        a, b = addition.draw(rng, 4 * count + 100, "test", digits, chains)
    else:
        a, b = addition.pairs(rng, 8 * count + 400, digits, chains)
        low = 10 ** (digits - 1)
        fits = (a >= low) & (b >= low) & (a + b >= 10**digits)
        a, b = a[fits], b[fits]
    _, first = np.unique(np.stack([a, b]), axis=1, return_index=True)
    kept = np.sort(first)[:count]
    return table(model, a[kept], b[kept], digits, padded=padded)


def operand_digits(model: Model) -> int | None:
    """How many digits the trained adder pads operands to, by its config; None for other models."""
    found = getattr(model.hf.config, "operand_digits", None)
    return None if found is None else int(found)


def table_for_model(model: Model, digits: int, count: int, seed: int) -> Table:
    """Sums as the model reads them: the trained adder's own digits go ahead.

    Raises:
        SpecError: If the model does not read and write one token for each digit.
    """
    own = operand_digits(model)
    return drawn(model, count, seed, own or digits, padded=own is not None)
