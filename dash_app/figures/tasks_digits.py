"""When each digit of the answer emerges: mean rows of right and wrong answers, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis.results.tasks import EmergenceCurve, EmergenceReport
from dash_app.figures.tasks import few
from dash_app.theme import Figure, Theme, axis, base_layout, palette


def by_digit(report: EmergenceReport, *, theme: Theme, links: Sequence[str] = ()) -> Figure:
    """A mark for each digit of the answer, right ones above wrong ones; bars: 95 % intervals.

    ``links`` [prompt] is what opens a prompt: a click on a mark opens one that it stands for.
    """
    names = list(dict.fromkeys(curve.name.rpartition(": ")[0] for curve in report.by_digit))
    last = max((len(curve.by_row) for curve in report.by_digit), default=1) - 1
    data = [
        _marks([c for c in report.by_digit if c.name.endswith(kind)], names, kind, theme, links)
        for kind in ("right", "wrong")
    ]
    return {
        "data": [marks for marks in data if len(marks["x"])],
        "layout": base_layout(
            theme,
            meta={"view": "tasks"},
            height=34 * len(names) + 120,
            hovermode="closest",
            showlegend=True,
            legend={"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"},
            margin={"l": 96, "r": 16, "t": 36, "b": 52, "pad": 0, "autoexpand": False},
            xaxis=axis(theme, "Mean row at which the choice comes up (0: embedding)",
                       range=[-0.2, last + 0.2], showgrid=True),
            yaxis=axis(theme, tickvals=list(range(len(names))), ticktext=[_said(n) for n in names],
                       range=[len(names) - 0.4, -0.6]),
        ),
    }  # fmt: skip


def _said(name: str) -> str:
    return f"digit {name[6:]}" if name.startswith("answer") else name


def _marks(
    curves: list[EmergenceCurve], names: list[str], kind: str, theme: Theme, links: Sequence[str]
) -> dict[str, Any]:
    colours = palette(theme)
    known = [curve for curve in curves if np.isfinite(curve.mean)]
    means = np.array([curve.mean for curve in known])
    above = np.array([curve.mean_high for curve in known]) - means
    below = means - np.array([curve.mean_low for curve in known])
    shift = -0.15 if kind == "right" else 0.15
    colour = colours.answer if kind == "right" else colours.select
    return {
        "type": "scatter",
        "mode": "markers",
        "name": f"{kind} answers",
        "x": means,
        "y": np.array([names.index(c.name.rpartition(": ")[0]) + shift for c in known]),
        "marker": {"color": colour, "size": 9, "symbol": "circle" if kind == "right" else "x"},
        "error_x": {
            "type": "data", "array": np.nan_to_num(above), "arrayminus": np.nan_to_num(below),
            "symmetric": False, "color": colour, "thickness": 1.4,
        },
        "customdata": [links[int(c.prompts[0])] if links else "" for c in known],
        "text": [_hover(curve) for curve in known],
        "hovertemplate": "%{text}<extra></extra>",
    }  # fmt: skip


def _hover(curve: EmergenceCurve) -> str:
    interval = (
        f"95 % interval {curve.mean_low:.2f} to {curve.mean_high:.2f}"
        if np.isfinite(curve.mean_low)
        else "too few prompts for an interval"
    )
    return (
        f"{_said(curve.name)}: row {curve.mean:.2f}<br>{interval}"
        f"<br>{few(curve)} tokens, {curve.never} never come up"
    )
