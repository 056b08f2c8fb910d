"""Suites and their parts; statistics; grouping."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.errors import SpecError
from analysis.tasks import addition, suite_specs, suites, sum_specs
from analysis.tasks.batch import groups
from analysis.tasks.suite_report import curve, share


@pytest.mark.parametrize("name", suites.NAMES)
@pytest.mark.parametrize("padded", [False, True])
def test_each_suite_is_complete_and_drawn_by_its_seed(name: str, padded: bool) -> None:
    one, again = (suites.build(name, 20, 4, 3, padded=padded) for _ in range(2))
    assert one == again
    assert len(one.prompts) == 20
    for prompt in one.prompts:
        assert prompt.text
        assert prompt.answer
        assert prompt.foil != prompt.answer
    if name != "facts":
        assert one.prompts != suites.build(name, 20, 5, 3, padded=padded).prompts


def test_parts_name_the_digits_by_column() -> None:
    prompt = suites.sum_prompt(123, 456, 3)
    whole = prompt.text + prompt.answer
    named = {part.name: whole[part.start : part.stop] for part in prompt.parts}
    assert named == {
        "plus": "+", "equals": "=", "a2": "1", "a1": "2", "a0": "3",
        "b2": "4", "b1": "5", "b0": "6", "answer2": "5", "answer1": "7", "answer0": "9",
    }  # fmt: skip


def test_equal_operands_have_parts_of_their_own() -> None:
    prompt = suites.sum_prompt(55, 55, 2)
    starts = {part.name: part.start for part in prompt.parts}
    shown = len(suites.EXAMPLES["+"])
    assert starts["b1"] == shown + 5
    assert starts["a1"] == shown


@pytest.mark.parametrize("name", [name for name in suites.NAMES if name.startswith("addition")])
def test_answers_of_sums_are_right(name: str) -> None:
    for prompt in suites.build(name, 30, 1, 4).prompts:
        a, b = prompt.text.splitlines()[-1].removesuffix(" = ").split(" + ")
        assert int(prompt.answer) == int(a) + int(b)


def test_each_kind_of_sum_has_its_property() -> None:
    plain = suites.build("addition-plain", 40, 0, 5, padded=True)
    assert {prompt.label("chain") for prompt in plain.prompts} == {"0"}
    cascade = suites.build("addition-cascade", 40, 0, 5, padded=True)
    assert {prompt.label("chain") for prompt in cascade.prompts} == {"5"}
    lengths = suites.build("addition-lengths", 40, 0, 4)
    assert {prompt.label("digits") for prompt in lengths.prompts} == {"1", "2", "3", "4"}


def test_the_foil_of_a_sum_omits_its_lowest_carry() -> None:
    assert suites.sum_prompt(15, 17, 2, padded=True).foil == "022"
    assert suites.sum_prompt(11, 11, 2, padded=True).foil == "032"


@pytest.mark.parametrize(
    ("name", "size", "digits"), [("none", 5, 5), ("addition", 0, 5), ("addition", 5, 16)]
)
def test_invalid_values_are_refused(name: str, size: int, digits: int) -> None:
    with pytest.raises(SpecError):
        suites.build(name, size, 0, digits)


def test_groups_hold_equal_lengths_and_every_prompt_once() -> None:
    lengths = [3, 5, 3, 3, 5, 2]
    made = groups(lengths, 2)
    assert sorted(place for group in made for place in group) == list(range(6))
    assert all(len({lengths[place] for place in group}) == 1 for group in made)
    assert max(map(len, made)) == 2


def test_the_wilson_interval_equals_the_textbook() -> None:
    # Solve |p - 8/10| = z sqrt(p (1 - p) / 10) instead of using the closed form.
    grid = np.linspace(0, 1, 2_000_001)
    inside = np.abs(grid - 0.8) <= 1.959964 * np.sqrt(grid * (1 - grid) / 10)
    found = share("x", 8, 10)
    assert found.low == pytest.approx(grid[inside].min(), abs=1e-5)
    assert found.high == pytest.approx(grid[inside].max(), abs=1e-5)


def test_a_curve_counts_rows_and_never() -> None:
    found = curve("x", [0, 2, 2, -1], [0, 0, 1, 2], 3)
    assert found.by_row.tolist() == [0.25, 0.25, 0.75, 0.75]
    assert (found.count, found.never) == (4, 1)
    assert found.mean == pytest.approx(4 / 3)
    assert (found.low <= found.by_row).all()
    assert (found.by_row <= found.high).all()


def test_the_bootstrap_interval_has_its_stated_coverage() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        rows = rng.integers(0, 11, 60)
        found = curve("x", rows, np.arange(60), 10, seed=trial)
        covered += found.mean_low <= 5.0 <= found.mean_high
    assert 180 <= covered <= 199


def test_tokens_of_one_prompt_are_drawn_together() -> None:
    rows = np.repeat(np.random.default_rng(1).integers(0, 11, 20), 6)
    apart = curve("x", rows, np.arange(120), 10)
    together = curve("x", rows, np.repeat(np.arange(20), 6), 10)
    assert together.mean_high - together.mean_low > 1.8 * (apart.mean_high - apart.mean_low)


def test_an_empty_curve() -> None:
    found = curve("x", [], [], 2)
    assert found.count == 0
    assert np.isnan(found.by_row).all()


def test_carries_in_labels_agree_with_the_columns() -> None:
    for prompt in suites.build("addition-chains", 20, 2, 5, padded=True).prompts:
        a, b = (int(text) for text in prompt.text.removesuffix("=").split("+"))
        carry = addition.carries(np.array([a]), np.array([b]))[0]
        assert [prompt.label(f"carry{j}") for j in range(1, 6)] == [str(c) for c in carry[1:]]


def test_equal_draws_give_no_certain_band() -> None:
    found = curve("x", [2] * 12, range(12), 3)
    assert found.by_row.tolist() == [0.0, 0.0, 1.0, 1.0]
    none, every = share("x", 0, 12), share("x", 12, 12)
    assert found.high[0] == pytest.approx(none.high)
    assert found.low[3] == pytest.approx(every.low)


def test_the_mean_row_of_few_prompts_has_no_interval() -> None:
    assert np.isnan(curve("x", [1, 2] * 4, range(8), 3).mean_low)
    assert curve("x", [1, 2] * 5, range(10), 3).mean_low >= 1.0


def test_the_example_sum_keeps_its_carries_in_fewer_digits() -> None:
    whole = addition.carries(np.array([addition.A]), np.array([addition.B]), 8)[0]
    asked = addition.example_sum("addition-5digit")
    a, b = (int(text) for text in asked.prompt.removesuffix("=").split("+"))
    assert addition.carries(np.array([a]), np.array([b]))[0].tolist() == whole[:6].tolist()
    assert asked.answer == addition.answer(a, b)
    assert addition.example_sum("smollm2-135m-instruct").answer == "13622901"
    assert addition.padded_digits("/etc") is None


def test_an_invalid_report_is_refused() -> None:
    for make in (
        lambda: suite_specs.SuiteSpec("m", "own"),
        lambda: suite_specs.SuiteSpec("m", "addition", content="x"),
        lambda: sum_specs.ContributionSpec("m", digits=16),
        lambda: sum_specs.ProbeSpec("m", sums=39),
        lambda: sum_specs.ProjectionSpec("m", "row 1", column=4, digits=3),
        lambda: sum_specs.PatchSpec("m", digits=2, travels=True),
        lambda: sum_specs.PatchSpec("m", positions="some"),  # type: ignore[arg-type]
        lambda: suite_specs.FailureSpec(suite_specs.SuiteSpec("m", "facts"), most=21),
    ):
        with pytest.raises(SpecError):
            make()
