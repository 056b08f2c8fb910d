"""Made-up results of studies over suites."""

from __future__ import annotations

import numpy as np

from analysis.flow_graph.results import LINK_KINDS
from analysis.tasks.suite_effects import SuiteEffects


def suite_effects() -> SuiteEffects:
    """Two roles and two methods; some intervals are unknown."""
    nan = np.nan
    return SuiteEffects(
        "Facts", ("a", "<b>", "c"), ("effect", "proximity"),
        np.array([[0.75, 0.5, nan], [0.25, -0.5, 0.125]], np.float32),
        np.array([0.625, 0.125], np.float32), np.array([nan, -0.5], np.float32),
        np.array([nan, 0.25], np.float32),
        np.array([LINK_KINDS.index("mlp"), LINK_KINDS.index("attention")]), np.array([1, 0]),
        np.array([-1, 2]), ("last token", "<i>subject"), ("last token", "last token"),
        np.array([3, 2]), np.array([0.5, -2.0], np.float32), np.array([0.25, nan], np.float32),
        np.array([1.5, nan], np.float32),
        np.array([[0.375, 0.0625], [0.875, 1.25]], np.float32), 1,
    )  # fmt: skip
