"""Spearman's correlation against its definition, ties and all."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.flow_graph.causal_check import ranks, spearman


def slow_ranks(values: list[float]) -> list[float]:
    """1 + the number of smaller values + half the number of other equal values."""
    return [
        1 + sum(v < value for v in values) + (sum(v == value for v in values) - 1) / 2
        for value in values
    ]


@pytest.mark.parametrize("seed", range(8))
def test_the_correlation_equals_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one = rng.integers(0, 6, 20).astype(float).tolist()
    other = (rng.normal(size=20) if seed % 2 else rng.integers(0, 4, 20)).astype(float).tolist()
    assert ranks(one).tolist() == slow_ranks(one)
    wanted = np.corrcoef(slow_ranks(one), slow_ranks(other))[0, 1]
    assert spearman(one, other) == pytest.approx(wanted)


def test_extreme_values_and_missing_correlations() -> None:
    assert spearman([1, 2, 3, 9], [10, 20, 30, 31]) == pytest.approx(1.0)
    assert spearman([1, 2, 3, 9], [4, 3, 2, 1]) == pytest.approx(-1.0)
    assert math.isnan(spearman([1, 2], [1, 2]))
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))
    assert math.isnan(spearman([], []))
