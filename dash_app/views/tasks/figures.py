"""Reports on tasks as figures: emergence curves, accuracy, prompts, digits, projections."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape as html_escape
from typing import Any, Literal

import numpy as np

from analysis.tasks.suite_specs import EmergenceCurve, EmergenceReport, Share, SuiteReport
from analysis.tasks.sum_specs import Projection
from dash_app.page.theme import Figure, Theme, axis, base_layout, colour_bar, palette, rgba, scale
from dash_app.views.tasks.figure_parts import line, title_of

#: Colours of the emergence curves, by their place in the report; controls are grey and dashed.
_DASHES = ("solid", "solid", "dot", "dash", "dashdot")
#: With answers of fewer prompts than this a curve is marked: its interval is most of the picture.
FEW = 10


def emergence(report: EmergenceReport, *, theme: Theme, links: Sequence[str] = ()) -> Figure:
    """Share of answer tokens that have come up by each row, with 95 % bands.

    ``links`` [prompt] is what opens a prompt: a click on a point opens one that comes up there.
    """
    traces = [
        trace
        for place, curve in enumerate(report.curves)
        if curve.count
        for trace in (_band(curve, place, theme), _line(curve, place, theme, links))
    ]
    last = max((len(curve.by_row) for curve in report.curves), default=1) - 1
    return {
        "data": traces,
        "layout": base_layout(
            theme,
            meta={"view": "tasks"},
            height=360,
            margin={"l": 64, "r": 16, "t": 76, "b": 48, "pad": 0, "autoexpand": False},
            showlegend=True,
            legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
            xaxis=axis(
                theme,
                "Row (0: embedding)",
                range=[-0.1, last + 0.1],
                dtick=max(1, last // 10),
            ),
            yaxis=axis(
                theme, "Share come up", range=[-0.02, 1.03], tickformat=".0%", showgrid=True
            ),
        ),
    }


def _band(curve: EmergenceCurve, place: int, theme: Theme) -> dict[str, Any]:
    rows = np.arange(len(curve.by_row))
    return {
        "type": "scatter",
        "mode": "lines",
        "x": np.concatenate([rows, rows[::-1]]),
        "y": np.concatenate([curve.high, curve.low[::-1]]),
        "fill": "toself",
        "fillcolor": rgba(_curve_colour(place, theme), 0.14),
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _first_at(curve: EmergenceCurve, links: Sequence[str]) -> list[str]:
    """For each row a prompt whose token comes up there; where none does, the last before it."""
    found, at = [], ""
    for row in range(len(curve.by_row)):
        own = np.flatnonzero(curve.rows == row)
        at = links[int(curve.prompts[own[0]])] if len(own) else at
        found.append(at)
    return found


def few(curve: EmergenceCurve) -> str:
    """How many tokens of how many prompts, and whether that is too few to say much."""
    prompts = len(np.unique(curve.prompts))
    return f"{curve.count}, too few" if prompts < FEW else str(curve.count)


def _line(curve: EmergenceCurve, place: int, theme: Theme, links: Sequence[str]) -> dict[str, Any]:
    return {
        **line(
            np.arange(len(curve.by_row)), curve.by_row, f"{curve.name} ({few(curve)})",
            _curve_colour(place, theme), _DASHES[place % 5],
        ),
        "customdata": _first_at(curve, links) if links else [],
        "hovertemplate": f"row %{{x}}: %{{y:.1%}}<br>{curve.name}",
    }  # fmt: skip


def _curve_colour(place: int, theme: Theme) -> str:
    colours = palette(theme)
    return (
        colours.answer, colours.select, colours.mlp, colours.ink_3, colours.bias,
    )[place % 5]  # fmt: skip


def accuracy(shares: Sequence[Share], *, theme: Theme, links: Sequence[str] = ()) -> Figure:
    """Share of right answers in each group, with Wilson intervals.

    ``links`` [group] is what opens a prompt of the group.
    """
    colours = palette(theme)
    heights = np.array([one.share for one in shares])
    above = np.array([one.high for one in shares]) - heights
    below = heights - np.array([one.low for one in shares])
    bars = {
        "type": "bar",
        "x": [f"{html_escape(one.name)}<br>{one.hits} of {one.total}" for one in shares],
        "y": heights,
        "marker": {"color": rgba(colours.answer, 0.55)},
        "error_y": {
            "type": "data", "array": above, "arrayminus": below, "symmetric": False,
            "color": colours.ink, "thickness": 1.5,
        },
        "customdata": list(links),
        "hovertemplate": "%{x}: %{y:.1%}<extra></extra>",
    }  # fmt: skip
    return {
        "data": [bars],
        "layout": base_layout(
            theme,
            meta={"view": "tasks"},
            height=280,
            bargap=0.6,
            margin={"l": 64, "r": 16, "t": 16, "b": 64, "pad": 0, "autoexpand": False},
            xaxis=axis(theme, automargin=True),
            yaxis=axis(theme, "Right answers", range=[0, 1.03], tickformat=".0%", showgrid=True),
        ),
    }


def prompts(report: SuiteReport, links: Sequence[str], *, theme: Theme) -> Figure:
    """A dot for each prompt: the mean row of its choices, right answers above wrong ones.

    ``customdata`` is what a click opens.
    """
    dots = _dots(report, links, theme)
    last = len(report.emergence.curves[0].by_row) - 1
    return {
        "data": [dots],
        "layout": base_layout(
            theme,
            meta={"view": "tasks"},
            height=220,
            hovermode="closest",
            xaxis=axis(
                theme, "Mean row at which the model's choices come up", range=[-0.2, last + 0.2],
                showgrid=True,
            ),
            yaxis=axis(theme, tickvals=[0, 1], ticktext=["wrong", "right"], range=[-0.4, 1.4]),
        ),
    }  # fmt: skip


def _dots(report: SuiteReport, links: Sequence[str], theme: Theme) -> dict[str, Any]:
    colours = palette(theme)
    right = np.asarray(report.right, bool)
    spread = (np.arange(len(right)) * 0.618) % 1  # golden-ratio steps: even, and the same each time
    asked = [
        f"{html_escape(prompt.splitlines()[-1])}<br>says {html_escape(said)}"
        for prompt, said in zip(report.prompts, report.written, strict=True)
    ]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": report.rows,
        "y": np.where(right, 1.0, 0.0) + 0.5 * (spread - 0.5),
        "customdata": list(links),
        "text": asked,
        "marker": {
            "size": 9,
            "opacity": 0.8,
            "color": [colours.answer if one else colours.select for one in right],
            "symbol": ["circle" if one else "x" for one in right],
        },
        "hovertemplate": "%{text}<br>row %{x:.1f}<extra></extra>",
    }


def projection(
    found: Projection,
    *,
    colour: Literal["carry", "digit_sum"],
    theme: Theme,
    links: Sequence[str] = (),
) -> Figure:
    """States on their two main axes, coloured by the carry or by the raw digit sum.

    ``links`` [sum] is what a click on a dot opens.
    """
    share = [f"{100 * part:.0f} % of the variance" for part in found.explained]
    dots = {
        "type": "scatter",
        "mode": "markers",
        "x": found.points[:, 0],
        "y": found.points[:, 1],
        "marker": _dyed(found, colour, theme),
        "customdata": list(links),
        "text": _sums(found),
        "hovertemplate": "%{text}<extra></extra>",
    }
    what = "the carry into" if colour == "carry" else "the raw digit sum of"
    title = f"{found.component} at {found.place}, coloured by {what} column {found.column}"
    return {
        "data": [dots],
        "layout": base_layout(
            theme,
            meta={"view": "tasks"},
            hovermode="closest",
            height=360,
            title=title_of(title, theme),
            margin={"l": 64, "r": 72, "t": 36, "b": 48, "pad": 0, "autoexpand": False},
            xaxis=axis(theme, f"axis 1 ({share[0]})", showgrid=True),
            yaxis=axis(theme, f"axis 2 ({share[1]})", showgrid=True),
        ),
    }


def _dyed(found: Projection, colour: str, theme: Theme) -> dict[str, Any]:
    """Markers by carry (colour and shape) or by digit sum."""
    colours = palette(theme)
    marker: dict[str, Any] = {"size": 5, "opacity": 0.75}
    if colour == "carry":
        return marker | {
            "color": [colours.select if carry else colours.accent for carry in found.carry],
            "symbol": ["diamond" if carry else "circle" for carry in found.carry],
        }
    return marker | {
        "color": found.digit_sum, "colorscale": scale(colours.magnitude), "cmin": 0, "cmax": 18,
        "colorbar": colour_bar(theme, "digit sum"),
    }  # fmt: skip


def _sums(found: Projection) -> list[str]:
    prompts = found.prompts or ("",) * len(found.points)
    return [
        f"{html_escape(prompt.splitlines()[-1] if prompt else '')}<br>digit sum {total}, "
        f"{'a' if carry else 'no'} carry"
        for prompt, total, carry in zip(prompts, found.digit_sum, found.carry, strict=True)
    ]


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
