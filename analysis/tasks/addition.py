"""Addition digit by digit: texts, columns, carries, random sums."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from analysis.errors import AnalysisError, SpecError
from analysis.model import catalog

DIGITS = 5
#: Of every ``SHARES`` pairs, one is for validation, one for the final test, the rest for training.
SHARES = 16

Ints = np.ndarray[Any, np.dtype[np.int64]]
Part = Literal["train", "validation", "test"]


def prompt(a: int, b: int, digits: int = DIGITS) -> str:
    """The text that asks for a sum: ``prompt(123, 45) == "00123+00045="``.

    Raises:
        SpecError: If an operand is negative or has more than ``digits`` digits.
    """
    for operand in (a, b):
        if not 0 <= operand < 10**digits:
            raise SpecError(
                f"{operand} can't be written in {digits} digits.",
                f"Use operands from 0 to {10**digits - 1}.",
            )
    return f"{a:0{digits}d}+{b:0{digits}d}="


def answer(a: int, b: int, digits: int = DIGITS) -> str:
    """The text expected after it: ``answer(123, 45) == "000168"``."""
    return f"{a + b:0{digits + 1}d}"


def columns(numbers: Ints, count: int) -> Ints:
    """[n, count] decimal digits of ``numbers`` [n]; column 0 the units."""
    powers = 10 ** np.arange(count, dtype=np.int64)
    return np.asarray(numbers, np.int64)[:, None] // powers % 10


def digit_sums(a: Ints, b: Ints, digits: int = DIGITS) -> Ints:
    """[n, digits] raw sums of each column's two digits, 0 to 18, without any carry."""
    return columns(a, digits) + columns(b, digits)


def carries(a: Ints, b: Ints, digits: int = DIGITS) -> Ints:
    """[n, digits + 1] the carry, 0 or 1, into each column and into the one above them."""
    sums = digit_sums(a, b, digits)
    found = np.zeros((len(sums), digits + 1), np.int64)
    for column in range(digits):
        found[:, column + 1] = sums[:, column] + found[:, column] >= 10
    return found


def longest_chain(a: Ints, b: Ints, digits: int = DIGITS) -> Ints:
    """[n] the number of columns that the longest carry passes out of; 0 without a carry.

    1: every carry is made in the column below the one it enters. 2: a carry passes through one
    column whose digits add up to 9, and so on: 99999+00001 has a chain of 5.
    """
    sums = digit_sums(a, b, digits)
    length = np.zeros(len(sums), np.int64)
    best = length.copy()
    for column in range(digits):
        passed = (sums[:, column] == 9) & (length > 0)
        length = np.where(sums[:, column] >= 10, 1, np.where(passed, length + 1, 0))
        best = np.maximum(best, length)
    return best


def part_of(a: Ints, b: Ints) -> Ints:
    """[n] 0 for pairs held out for the test, 1 for validation, more for training.

    A fixed hash of the pair, so that no list of held-out sums is needed.
    """
    mixed = (np.asarray(a, np.uint64) << np.uint64(20)) ^ np.asarray(b, np.uint64)
    for factor in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F):
        mixed = mixed * np.uint64(factor)
        mixed = mixed ^ (mixed >> np.uint64(29))
    return (mixed % np.uint64(SHARES)).astype(np.int64)


def sample_part(
    rng: np.random.Generator, count: int, part: Part, digits: int = DIGITS, chains: float = 0.5
) -> tuple[Ints, Ints]:
    """``count`` random pairs of one part, as ``random_pairs`` makes them."""
    kept: tuple[Ints, Ints] = (np.empty(0, np.int64), np.empty(0, np.int64))
    while len(kept[0]) < count:
        a, b = random_pairs(rng, 4 * count if part != "train" else count, digits, chains)
        number = part_of(a, b)
        wanted = number > 1 if part == "train" else number == ("test", "validation").index(part)
        kept = (np.concatenate([kept[0], a[wanted]]), np.concatenate([kept[1], b[wanted]]))
    return kept[0][:count], kept[1][:count]


def random_pairs(
    rng: np.random.Generator, count: int, digits: int, chains: float
) -> tuple[Ints, Ints]:
    """Random pairs of operands; a share ``chains`` of them has long carry chains.

    Digits are uniform. For long chains, many columns are changed to add up to 9.
    """
    first = rng.integers(0, 10, (count, digits))
    second = rng.integers(0, 10, (count, digits))
    rich = rng.random((count, 1)) < chains
    nines = rng.random((count, digits)) < rng.uniform(0.2, 0.9, (count, 1))
    second = np.where(rich & nines, 9 - first, second)
    powers = 10 ** np.arange(digits, dtype=np.int64)
    return first @ powers, second @ powers


A, B = 1230912, 12391989


@dataclass(frozen=True, slots=True)
class ExampleSum:
    """A sum offered as an example.

    Attributes:
        prompt: The prompt.
        new_tokens: Number of tokens to generate.
        answer: The right answer.
        note: An explanation for the page.
    """

    prompt: str
    new_tokens: int
    answer: str
    note: str


def example_sum(model: str) -> ExampleSum:
    """1230912 + 12391989, or its lowest columns for a model that reads fewer digits.

    Args:
        model: A catalogue name.
    """
    digits = padded_digits(model)
    whole = f"{A} + {B}"
    if digits is None:
        note = f"{whole} = {A + B}: eight digits, four carries."
        return ExampleSum(f"{whole} =", 10, str(A + B), note)
    a, b = A % 10**digits, B % 10**digits
    return ExampleSum(
        prompt(a, b, digits),
        digits + 2,
        answer(a, b, digits),
        f"This model reads operands of at most {digits} digits, so it can't read {whole}."
        f" These are its lowest {digits} columns: the same digits, and the same carries into"
        f" columns 1 to {digits}. The right answer is {answer(a, b, digits)}.",
    )


def padded_digits(model: str) -> int | None:
    """Digits that a trained adder of the catalogue pads operands to, by its config; else None."""
    try:
        source = Path(catalog.offered(model).source)
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    except (AnalysisError, OSError, ValueError):
        return None
    found = config.get("operand_digits") if isinstance(config, dict) else None
    return found if isinstance(found, int) and 1 <= found <= 15 else None
