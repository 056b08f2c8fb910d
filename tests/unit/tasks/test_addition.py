"""Columns, carries and texts of sums, against independent arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.errors import SpecError
from analysis.tasks import addition

OPERAND = st.integers(0, 99999)


def test_prompt_and_answer_are_padded() -> None:
    assert addition.prompt(123, 45) == "00123+00045="
    assert addition.answer(123, 45) == "000168"
    assert addition.prompt(7, 5, 2) + addition.answer(7, 5, 2) == "07+05=012"


@pytest.mark.parametrize("operand", [-1, 100_000])
def test_an_operand_that_does_not_fit_is_refused(operand: int) -> None:
    with pytest.raises(SpecError, match="5 digits"):
        addition.prompt(operand, 0)


@given(OPERAND, OPERAND)
def test_a_carry_enters_a_column_when_the_column_below_overflows(a: int, b: int) -> None:
    found = addition.carries(np.array([a]), np.array([b]))[0]
    assert found.tolist() == [int(a % 10**j + b % 10**j >= 10**j) for j in range(6)]


@given(OPERAND, OPERAND)
def test_digits_follow_from_sums_and_carries(a: int, b: int) -> None:
    first, second = np.array([a]), np.array([b])
    sums = addition.digit_sums(first, second)[0]
    carry = addition.carries(first, second)[0]
    digits = [int((sums[j] + carry[j]) % 10) for j in range(5)] + [int(carry[5])]
    assert "".join(map(str, reversed(digits))) == addition.answer(a, b)


@pytest.mark.parametrize(
    ("a", "b", "length"),
    [
        (11111, 11111, 0),
        (5, 5, 1),
        (55555, 55555, 1),  # five carries, each over one column
        (99999, 1, 5),
        (95, 5, 2),
        (90500, 500, 1),
        (99500, 500, 3),
        (44444, 55555, 0),  # nines without a carry to pass on
    ],
)
def test_longest_chain(a: int, b: int, length: int) -> None:
    assert addition.longest_chain(np.array([a]), np.array([b])).tolist() == [length]


def test_parts_are_disjoint_and_drawn_by_seed() -> None:
    drawn = {
        part: addition.sample_part(np.random.default_rng(3), 4000, part)
        for part in ("train", "validation", "test")
    }
    pairs = {part: set(zip(a.tolist(), b.tolist(), strict=True)) for part, (a, b) in drawn.items()}
    assert not pairs["train"] & pairs["validation"]
    assert not pairs["train"] & pairs["test"]
    assert not pairs["validation"] & pairs["test"]
    again = addition.sample_part(np.random.default_rng(3), 4000, "test")
    assert all((x == y).all() for x, y in zip(drawn["test"], again, strict=True))
    assert all(len(a) == 4000 for a, _ in drawn.values())


def test_one_in_sixteen_pairs_is_held_out_for_the_test() -> None:
    rng = np.random.default_rng(0)
    share = (
        addition.part_of(rng.integers(0, 10**5, 64000), rng.integers(0, 10**5, 64000)) == 0
    ).mean()
    assert abs(share - 1 / 16) < 0.005


def test_rich_pairs_have_longer_chains() -> None:
    lengths = [
        addition.longest_chain(
            *addition.sample_part(np.random.default_rng(1), 2000, "test", chains=share)
        )
        for share in (0.0, 1.0)
    ]
    assert (lengths[1] >= 3).mean() > 5 * (lengths[0] >= 3).mean()
