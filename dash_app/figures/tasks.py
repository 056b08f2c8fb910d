"""Reports on tasks as figures: emergence curves, accuracy, maps of probes and patches, PCA."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape as html_escape
from typing import Any, Literal

import numpy as np

from analysis.results.tasks import EmergenceCurve, EmergenceReport, Projection, Share, SuiteReport
from dash_app.theme import (
    Figure,
    Theme,
    axis,
    base_layout,
    colour_bar,
    palette,
    rgba,
    scale,
)

#: Colours of the emergence curves, by their place in the report; controls are grey and dashed.
_DASHES = ("solid", "solid", "dot", "dash", "dashdot")


def emergence(report: EmergenceReport, *, theme: Theme) -> Figure:
    """Share of answer tokens that have come up by each row, with 95 % bands."""
    traces = [
        trace
        for place, curve in enumerate(report.curves)
        if curve.count
        for trace in (_band(curve, place, theme), _line(curve, place, theme))
    ]
    last = max((len(curve.by_row) for curve in report.curves), default=1) - 1
    return {
        "data": traces,
        "layout": base_layout(
            theme,
            height=360,
            margin={"l": 64, "r": 16, "t": 56, "b": 48, "pad": 0, "autoexpand": False},
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


def _line(curve: EmergenceCurve, place: int, theme: Theme) -> dict[str, Any]:
    colour = _curve_colour(place, theme)
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": np.arange(len(curve.by_row)),
        "y": curve.by_row,
        "name": f"{curve.name} ({curve.count})",
        "line": {"color": colour, "width": 2, "dash": _DASHES[place % 5]},
        "marker": {"size": 5},
        "hovertemplate": f"row %{{x}}: %{{y:.1%}}<br>{curve.name}",
    }


def _curve_colour(place: int, theme: Theme) -> str:
    colours = palette(theme)
    return (
        colours.answer, colours.select, colours.mlp, colours.ink_3, colours.bias,
    )[place % 5]  # fmt: skip


def accuracy(shares: Sequence[Share], *, theme: Theme) -> Figure:
    """Share of right answers in each group, with Wilson intervals."""
    colours = palette(theme)
    heights = np.array([one.share for one in shares])
    above = np.array([one.high for one in shares]) - heights
    below = heights - np.array([one.low for one in shares])
    bars = {
        "type": "bar",
        "x": [one.name for one in shares],
        "y": heights,
        "marker": {"color": colours.answer},
        "error_y": {
            "type": "data", "array": above, "arrayminus": below, "symmetric": False,
            "color": colours.ink_2, "thickness": 1.2,
        },
        "customdata": [[one.hits, one.total] for one in shares],
        "hovertemplate": "%{x}: %{y:.1%} (%{customdata[0]} of %{customdata[1]})<extra></extra>",
    }  # fmt: skip
    return {
        "data": [bars],
        "layout": base_layout(
            theme,
            height=260,
            bargap=0.6,
            xaxis=axis(theme),
            yaxis=axis(theme, "Right", range=[0, 1.03], tickformat=".0%", showgrid=True),
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


def matrix(
    values: Any,
    *,
    columns: Sequence[str],
    rows: Sequence[str],
    theme: Theme,
    quantity: str,
    low: float = 0.0,
    high: float = 1.0,
    signed: bool = False,
    title: str = "",
) -> Figure:
    """A map of ``values`` [row, column] with the number in each cell; NaN stays blank."""
    heat = {
        **_cells(np.asarray(values, np.float32), rows, columns, quantity),
        "zmin": low,
        "zmax": high,
        "colorscale": scale(palette(theme).signed if signed else palette(theme).magnitude),
        "colorbar": colour_bar(theme, quantity),
    }
    return {
        "data": [heat],
        "layout": base_layout(
            theme,
            height=26 * len(rows) + 118,
            title={"text": title, "x": 0.01, "y": 0.98, "yanchor": "top", "font": {"size": 13}},
            margin={"l": 96, "r": 72, "t": 36, "b": 56, "pad": 0, "autoexpand": False},
            xaxis=axis(theme, **_named(columns)),
            yaxis=axis(theme, autorange="reversed", **_named(rows)),
        ),
    }


def _named(names: Sequence[str]) -> dict[str, Any]:
    places = list(range(len(names)))
    return {"tickmode": "array", "tickangle": 0, "tickvals": places, "ticktext": list(names)}


def _cells(
    values: Any, rows: Sequence[str], columns: Sequence[str], quantity: str
) -> dict[str, Any]:
    return {
        "type": "heatmap",
        "z": values,
        "x": list(range(len(columns))),
        "y": list(range(len(rows))),
        "text": [["" if np.isnan(one) else f"{one:.2f}" for one in line] for line in values],
        "texttemplate": "%{text}",
        "textfont": {"size": 9},
        "xgap": 1,
        "ygap": 1,
        "hoverongaps": False,
        "customdata": [[f"{row} · {column}" for column in columns] for row in rows],
        "hovertemplate": "%{customdata}<br>" + quantity + " %{z:.3f}<extra></extra>",
    }


def projection(found: Projection, *, colour: Literal["carry", "digit_sum"], theme: Theme) -> Figure:
    """States on their two main axes, coloured by the carry or by the raw digit sum."""
    colours = palette(theme)
    values = found.carry if colour == "carry" else found.digit_sum
    marker: dict[str, Any] = {"size": 5, "opacity": 0.75}
    if colour == "carry":
        marker["color"] = [colours.select if value else colours.accent for value in values]
    else:
        marker |= {
            "color": values, "colorscale": scale(colours.magnitude), "cmin": 0, "cmax": 18,
            "colorbar": colour_bar(theme, "digit sum"),
        }  # fmt: skip
    share = [f"{100 * part:.0f} % of the variance" for part in found.explained]
    dots = {
        "type": "scatter",
        "mode": "markers",
        "x": found.points[:, 0],
        "y": found.points[:, 1],
        "marker": marker,
        "customdata": np.stack([found.digit_sum, found.carry], 1),
        "hovertemplate": "digit sum %{customdata[0]}, carry %{customdata[1]}<extra></extra>",
    }
    title = f"{found.component} at {found.place}"
    return {
        "data": [dots],
        "layout": base_layout(
            theme,
            height=360,
            title={"text": title, "x": 0.01, "y": 0.98, "yanchor": "top", "font": {"size": 13}},
            margin={"l": 64, "r": 72, "t": 36, "b": 48, "pad": 0, "autoexpand": False},
            xaxis=axis(theme, f"axis 1 ({share[0]})", showgrid=True),
            yaxis=axis(theme, f"axis 2 ({share[1]})", showgrid=True),
        ),
    }
