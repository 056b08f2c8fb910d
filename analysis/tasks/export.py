"""Reports as text and as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np

from analysis.results.tasks import EmergenceReport


def as_json(report: Any) -> str:
    """Any report on a task, of ``analysis.results``, as JSON; NaN becomes null."""
    return json.dumps(_plain(asdict(report)), indent=1)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def text(report: EmergenceReport) -> str:
    """Accuracy and the mean rows with their intervals, a line each."""
    lines = [
        f"right: {one.name:28s} {one.hits:5d} of {one.total:5d}  "
        f"{100 * one.share:6.2f} %  [{100 * one.low:.2f}, {100 * one.high:.2f}]"
        for one in (report.accuracy, *report.by_label)
    ]
    lines.append(f"row of {report.measure} (mean of those that come up, 95 % interval):")
    for curve in report.curves:
        if not curve.count:
            lines.append(f"  {curve.name:44s} no tokens")
            continue
        interval = (
            f"[{curve.mean_low:.2f}, {curve.mean_high:.2f}]"
            if math.isfinite(curve.mean_low)
            else "(too few prompts for an interval)"
        )
        row = f"row {curve.mean:.2f} {interval}"
        lines.append(
            f"  {curve.name:44s} {curve.count:5d} tokens, never {curve.never:5d}, "
            f"{row if curve.never < curve.count else 'none comes up'}"
        )
    return "\n".join(lines)
