"""Intervals: Wilson for shares, the bootstrap over prompts for everything else."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from analysis.results.tasks import EmergenceCurve, Share

DRAWS = 1000
#: With fewer prompts than this a bootstrap says nothing: no interval is given for their mean row.
FEW = 10
_Z = 1.959964


def share(name: str, hits: int, total: int) -> Share:
    """A share with its 95 % Wilson score interval (Wilson 1927); 0 to 1 for none."""
    if not total:
        return Share(name, 0, 0, 0.0, 1.0)
    return Share(name, hits, total, *_wilson(hits / total, total))


def _wilson(p: float, total: int) -> tuple[float, float]:
    z = _Z
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(p * (1 - p) / total + z * z / (4 * total**2))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def curve(name: str, rows: Any, prompts: Any, last_row: int, seed: int = 0) -> EmergenceCurve:
    """The distribution of emergence rows with intervals from 1,000 draws of prompts.

    Intervals of shares are no narrower than Wilson's with prompts counted; the mean row of fewer
    than ten prompts has none (NaN).

    Args:
        name: Which tokens.
        rows: [count] row of each; -1 for never.
        prompts: [count] prompt of each: tokens of one prompt are drawn together.
        last_row: The model's last row.
        seed: Of the draws.
    """
    rows, prompts = np.asarray(rows, np.int64), np.asarray(prompts, np.int64)
    nothing = np.full(last_row + 1, np.nan, np.float32)
    if not len(rows):
        nan = float("nan")
        return EmergenceCurve(name, 0, 0, nothing, nothing, nothing, nan, nan, nan, rows, prompts)
    _, unit = np.unique(prompts, return_inverse=True)
    hits = np.zeros((unit.max() + 1, last_row + 2))  # a prompt's tokens by row; the last: never
    np.add.at(hits, (unit, np.where(rows < 0, last_row + 1, rows)), 1)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(hits), np.full(len(hits), 1 / len(hits)), DRAWS)
    low, high = np.percentile(_by_row(weights @ hits), [2.5, 97.5], axis=0)
    whole = hits.sum(0, keepdims=True)
    low, high = _no_narrower(low, high, _by_row(whole)[0], len(hits))
    means = _means(weights @ hits) if len(hits) >= FEW else np.empty(0)
    mean_low, mean_high = (
        np.percentile(means, [2.5, 97.5]) if len(means) else (float("nan"), float("nan"))
    )
    own = _means(whole)
    return EmergenceCurve(
        name, len(rows), int((rows < 0).sum()), _by_row(whole)[0].astype(np.float32),
        low.astype(np.float32), high.astype(np.float32),
        float(own[0]) if len(own) else float("nan"), float(mean_low), float(mean_high),
        rows, prompts,
    )  # fmt: skip


def _no_narrower(low: Any, high: Any, shares: Any, prompts: int) -> tuple[Any, Any]:
    """Bootstrap intervals made no narrower than Wilson's over prompts.

    Where all or none of the tokens have come up every draw says the same, and the bootstrap would
    claim certainty.
    """
    wilson = [_wilson(float(p), prompts) for p in shares]
    return (
        np.minimum(low, [one for one, _ in wilson]),
        np.maximum(high, [one for _, one in wilson]),
    )


def _by_row(counts: Any) -> Any:
    return counts[:, :-1].cumsum(1) / counts.sum(1, keepdims=True)


def _means(counts: Any) -> Any:
    """Mean row of what comes up, of those draws where something does."""
    came = counts[:, :-1]
    came = came[came.sum(1) > 0]
    return came @ np.arange(came.shape[1]) / came.sum(1)
