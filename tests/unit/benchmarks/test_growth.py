"""The fits of growth curves, on costs whose growth is known."""

from __future__ import annotations

import pytest

from benchmarks import _growth_figure as figure
from benchmarks import growth
from benchmarks._growth_fit import BYTES, SECONDS, TERMS, Exponent, Law
from benchmarks._random_models import KNOWN, Shape

SHAPES = [
    Shape(layers, width, vocabulary)
    for layers in (1, 3, 8)
    for width in (128, 256)
    for vocabulary in (1000, 5000)
]
POINTS = [(shape, tokens) for shape in SHAPES for tokens in (4, 16, 64)]


def test_the_exponent_of_a_power_is_exact() -> None:
    found = Exponent.of((1, 2, 4, 8), [3 * size**1.5 for size in (1, 2, 4, 8)])
    assert found.slope == pytest.approx(1.5)
    assert found.residual == pytest.approx(0.0, abs=1e-9)


def test_a_curve_that_bends_has_a_residual() -> None:
    found = Exponent.of((1, 10, 100), (1.0, 2.0, 100.0))
    assert found.slope == pytest.approx(1.0)
    apart = [25 ** (1 / 6) - 1, 25 ** (-1 / 3) - 1, 25 ** (1 / 6) - 1]
    assert found.residual == pytest.approx((sum(one**2 for one in apart) / 3) ** 0.5)


@pytest.mark.parametrize("terms", [*SECONDS.values(), *BYTES.values()])
def test_a_law_finds_its_terms_again(terms: tuple[str, ...]) -> None:
    truth = {name: 2.0 + number for number, name in enumerate(terms) if number % 2 == 0}
    costs = [sum(f * TERMS[name](*point) for name, f in truth.items()) for point in POINTS]
    law = Law.fit(terms, POINTS, costs)
    large = KNOWN["70B"]
    assert law.residual < 1e-6
    expected = sum(f * TERMS[name](large, 4096) for name, f in truth.items())
    assert law(large, 4096) == pytest.approx(expected, rel=1e-4)


def test_no_factor_of_a_law_is_negative() -> None:
    costs = [1000.0 / tokens for _, tokens in POINTS]
    law = Law.fit(("constant", "tokens · vocabulary"), POINTS, costs)
    assert all(factor > 0 for factor in law.factors.values())
    assert law.residual > 0.5


def test_the_known_models_have_their_number_of_weights() -> None:
    """TinyLlama 1.1B, Llama 2 7B and 70B."""
    sizes = {name: shape.parameters for name, shape in KNOWN.items()}
    assert sizes == {"1.1B": 1_100_048_384, "7B": 6_738_415_616, "70B": 68_976_648_192}


def test_the_table_has_an_exponent_where_the_memory_is_clear() -> None:
    sizes = {"tokens": (1, 2, 4, 8)}
    cost = growth.Cost
    found = {
        "tokens": {
            "trace": [cost(float(size), 1e8 * size**2) for size in sizes["tokens"]],
            "grid": [cost(2.0, 1e6) for _ in sizes["tokens"]],
        }
    }
    lines = figure.table(sizes, found).splitlines()
    assert lines[2:] == [
        "| trace: time | 1.00 (±0%) |",
        "| grid: time | 0.00 (±0%) |",
        "| trace: memory | 2.00 (±0%) |",
    ]


def test_the_page_has_the_marks_of_the_table() -> None:
    page = figure.PAGE.read_text(encoding="utf-8")
    table = page.partition(figure.BEGIN)[2].partition(figure.END)[0]
    assert all(f"| {view}: time |" in table for view in growth.VIEWS)
    assert figure.PICTURE.is_file()
