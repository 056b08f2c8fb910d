"""Spearman's rank correlation, ties averaged."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Ranks from 1 of the smallest; equal values share the mean of their places."""
    array = np.asarray(values, np.float64)
    _, group, count = np.unique(array, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    found: NDArray[np.float64] = (last - (count - 1) / 2.0)[group]
    return found


def spearman(one: ArrayLike, other: ArrayLike) -> float:
    """Pearson's correlation of the ranks, -1 to 1.

    NaN where there are fewer than three pairs, or all values of a side are equal. Source:
    Spearman 1904, "The proof and measurement of association between two things".
    """
    a, b = ranks(one), ranks(other)
    a, b = a - a.mean() if len(a) else a, b - b.mean() if len(b) else b
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if len(a) >= 3 and size > 0.0 else float("nan")
