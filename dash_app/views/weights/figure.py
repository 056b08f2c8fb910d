"""Figures of the weights of all heads: kinds, composition and norms by layer."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis.contract.specs import Floats
from analysis.inside_block.specs import AggregationReport
from analysis.weights.specs import KINDS, WeightReport
from dash_app.page.theme import Figure, Theme, axis, base_layout, palette

HEIGHT = 280
MARGIN = {"l": 46, "r": 60, "t": 30, "b": 40, "pad": 0, "autoexpand": False}
COMPOSED = ("Q-composition", "K-composition", "V-composition")


def kinds(report: WeightReport, theme: Theme, chosen: tuple[int, int]) -> Figure:
    """The score of every head, one map of layers by heads for each kind."""
    maps = [(KINDS[name].label, _by_head(report, values)) for name, values in
            zip(KINDS, report.kinds, strict=True)]  # fmt: skip
    return _maps(maps, theme, "head", "layer", (0.0, 1.0), chosen)


def partners(report: WeightReport, theme: Theme, chosen: tuple[int, int]) -> Figure:
    """Composition of the chosen head with every head of an earlier or a later layer."""
    places = (report.layers == chosen[0]) & (report.heads == chosen[1])
    if not len(report.composition[0]) or not places.any():
        return _maps([], theme, "head", "layer", (0.0, 1.0), chosen)
    own = int(np.flatnonzero(places)[0])
    maps = []
    for name, scores in zip(COMPOSED, report.composition, strict=True):
        both = np.where(np.isnan(scores[own]), scores[:, own], scores[own])
        maps.append((name, _by_head(report, both)))
    return _maps(maps, theme, "head", "layer", _range(maps), chosen)


def composition(report: WeightReport, theme: Theme) -> Figure:
    """The largest composition of any two heads, for each pair of layers."""
    layers = np.unique(report.layers)
    maps = []
    for name, scores in zip(COMPOSED, report.composition, strict=True):
        largest = np.full((len(layers), len(layers)), np.nan, np.float32)
        for row, first in enumerate(layers):
            for column, second in enumerate(layers):
                if second > first and len(scores):
                    pair = scores[np.ix_(report.layers == first, report.layers == second)]
                    largest[row, column] = pair.max()
        maps.append((name, largest))
    return _maps(maps, theme, "later layer", "earlier layer", _range(maps), None)


def norms(report: WeightReport, theme: Theme) -> Figure:
    """The Frobenius norm of every matrix by layer."""
    colours = palette(theme).categories
    lines = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "x": np.arange(report.norms.shape[1]),
            "y": values,
            "name": name,
            "line": {"color": colours[at % len(colours)], "width": 1.6,
                     "dash": "dot" if at >= len(colours) else "solid"},
            "marker": {"size": 4},
            "hovertemplate": f"{name}, layer %{{x}}: %{{y:.4g}}<extra></extra>",
        }
        for at, (name, values) in enumerate(zip(report.norm_names, report.norms, strict=True))
    ]  # fmt: skip
    last = report.norms.shape[1] - 1
    layout = base_layout(
        theme, height=HEIGHT, margin={**MARGIN, "r": 16}, showlegend=True,
        legend={"orientation": "h", "y": 1.16, "x": 0, "font": {"size": 11}},
        xaxis=axis(theme, "layer", dtick=max(1, last // 8)),
        yaxis=axis(theme, "Frobenius norm", showgrid=True, rangemode="tozero"),
    )  # fmt: skip
    return {"data": lines, "layout": layout}


def _by_head(report: WeightReport, values: Floats) -> Floats:
    """[layer, head] from one value for each head; NaN where there is none."""
    shape = int(report.layers.max()) + 1, int(report.heads.max()) + 1
    made = np.full(shape, np.nan, np.float32)
    made[report.layers, report.heads] = values
    return made


def _range(maps: Sequence[tuple[str, Floats]]) -> tuple[float, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a model with one layer has no pairs
        largest = max(float(np.nanmax(values, initial=0.0)) for _, values in maps)
    return 0.0, largest or 1.0


def _maps(
    maps: Sequence[tuple[str, Floats]],
    theme: Theme,
    across: str,
    down: str,
    scale: tuple[float, float],
    chosen: tuple[int, int] | None,
) -> Figure:
    """Maps side by side with one colour scale; the chosen head is outlined in each."""
    colours, layout = palette(theme), base_layout(theme, height=HEIGHT, margin=MARGIN)
    traces: list[dict[str, Any]] = []
    layout.update(annotations=[], shapes=[])
    for at, (title, values) in enumerate(maps):
        name, width = "" if at == 0 else str(at + 1), 1.0 / len(maps)
        start = at * width
        hover = f"{title}, {down} %{{y}}, {across} %{{x}}: %{{z:.3f}}<extra></extra>"
        traces.append(_map(values, theme, scale, name, hover))
        steps = (max(1, size // 5) for size in values.shape)
        layout[f"yaxis{name}"] = axis(
            theme, down if at == 0 else "", anchor=f"x{name}", dtick=next(steps)
        )
        layout[f"xaxis{name}"] = axis(
            theme, across, domain=[start, start + 0.9 * width], anchor=f"y{name}", dtick=next(steps)
        )
        layout["annotations"].append(
            {"text": title, "x": start + 0.45 * width, "y": 1.0, "xref": "paper", "yref": "paper",
             "xanchor": "center", "yanchor": "bottom", "showarrow": False,
             "font": {"size": 12, "color": colours.ink_2}}
        )  # fmt: skip
        if chosen is not None:
            layout["shapes"].append(_outline(chosen, name, colours.select))
    return {"data": traces, "layout": layout}


def _map(
    values: Floats, theme: Theme, scale: tuple[float, float], name: str, hover: str
) -> dict[str, Any]:
    """One map; the first has the colour bar of all."""
    return {
        "type": "heatmap",
        "z": np.round(values, 3),
        "xaxis": f"x{name}",
        "yaxis": f"y{name}",
        "zmin": scale[0],
        "zmax": scale[1],
        "colorscale": [list(one) for one in palette(theme).magnitude],
        "showscale": not name,
        "colorbar": {"thickness": 10, "x": 1.0, "outlinewidth": 0},
        "xgap": 1,
        "ygap": 1,
        "hoverongaps": False,
        "hovertemplate": hover,
    }


def _outline(chosen: tuple[int, int], name: str, colour: str) -> dict[str, Any]:
    layer, head = chosen
    return {
        "type": "rect", "xref": f"x{name}", "yref": f"y{name}", "x0": head - 0.5, "x1": head + 0.5,
        "y0": layer - 0.5, "y1": layer + 0.5, "line": {"color": colour, "width": 2},
    }  # fmt: skip


def aggregation(report: AggregationReport, theme: Theme) -> Figure:
    """The share inside the span by layer: attention, MLP, and the control of each, dashed."""
    colours = palette(theme).categories
    curves = (
        ("Attention", report.attention, colours[0], "solid"),
        ("MLP", report.mlp, colours[1], "solid"),
        ("Attention, control", report.attention_control, colours[0], "dot"),
        ("MLP, control", report.mlp_control, colours[1], "dot"),
    )
    lines = [
        {
            "type": "scatter", "mode": "lines+markers", "name": name,
            "x": list(range(len(values))), "y": values.tolist(),
            "line": {"color": colour, "width": 2, "dash": dash}, "marker": {"size": 4},
            "hovertemplate": f"{name}, layer %{{x}}: %{{y:.1%}}<extra></extra>",
        }
        for name, values, colour, dash in curves
    ]  # fmt: skip
    layout = base_layout(
        theme, height=HEIGHT, margin={**MARGIN, "r": 16}, showlegend=True,
        legend={"orientation": "h", "y": 1.16, "x": 0, "font": {"size": 11}},
        xaxis=axis(theme, "layer", dtick=max(1, (len(report.attention) - 1) // 8)),
        yaxis=axis(theme, "Share inside", showgrid=True, tickformat=".0%", range=[0, 1.03]),
    )  # fmt: skip
    return {"data": lines, "layout": layout}
