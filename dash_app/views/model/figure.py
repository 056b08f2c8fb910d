"""Figures of a model's embeddings and norms, and of how similarities rank tokens alike."""

from __future__ import annotations

from typing import Any

import numpy as np

from analysis.reports.specs import EmbeddingReport, NormReport, SimilarityReport
from dash_app.page.theme import Figure, Theme, axis, base_layout, palette, rgba

HEIGHT = 270
MARGIN = {"l": 62, "r": 16, "t": 30, "b": 48, "pad": 0, "autoexpand": False}


def cosines(report: EmbeddingReport, theme: Theme) -> Figure:
    """Distribution over tokens of the cosine between input and output row."""
    colours = palette(theme)
    edges = report.cosine_edges
    bars = {
        "type": "bar",
        "x": (edges[:-1] + edges[1:]) / 2,
        "y": report.cosine_counts,
        "width": np.diff(edges) * 0.94,
        "marker": {"color": colours.accent},
        "hovertemplate": "cosine %{x:.2f}: %{y:,} tokens<extra></extra>",
    }
    marks = [
        (report.cosine_mean, f"same token {report.cosine_mean:.2f}", colours.ink),
        (report.unrelated_mean, f"other tokens {report.unrelated_mean:.2f}", colours.ink_3),
    ]
    close = abs(report.cosine_mean - report.unrelated_mean) < 0.6
    return {
        "data": [bars],
        "layout": _layout(
            theme,
            xaxis=axis(theme, "cosine of a token's input row and output row", range=[-1.02, 1.02]),
            yaxis=axis(theme, "tokens", showgrid=True, rangemode="tozero"),
            shapes=[_upright(at, ink) for at, _, ink in marks],
            annotations=[
                _label(at, text, ink, lift=14 if number and close else 0)
                for number, (at, text, ink) in enumerate(marks)
            ],
        ),
    }


def scales(report: NormReport, theme: Theme) -> Figure:
    """The final norm's scale of every channel, sorted, and its bias if it has one."""
    colours = palette(theme)
    order = np.argsort(report.final_scale)
    series = [("scale", report.final_scale[order], colours.accent)]
    if np.any(report.final_bias):
        series.append(("bias", report.final_bias[order], colours.mlp))
    lines = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": np.arange(len(order)),
            "y": values,
            "name": name,
            "line": {"color": colour, "width": 1.8 if name == "scale" else 1},
            "customdata": order,
            "hovertemplate": f"channel %{{customdata}}: {name} %{{y:.3g}}<extra></extra>",
        }
        for name, values, colour in series
    ]
    return {
        "data": lines,
        "layout": _layout(
            theme,
            xaxis=axis(theme, "channels of the final norm, by their scale"),
            yaxis=axis(theme, "parameter", showgrid=True, zeroline=True),
            shapes=[_level(1.0, colours.ink_3)],
        ),
    }


def norms(report: NormReport, theme: Theme) -> Figure:
    """Minimum, quartiles and maximum of every norm's scale, by layer."""
    colours = palette(theme)
    kinds: dict[str, list[Any]] = {}
    for one in report.others:
        kinds.setdefault(one.name.rpartition(".")[2], []).append(one)
    traces: list[dict[str, Any]] = []
    last = max((one.layer for one in report.others), default=0)
    for number, (kind, group) in enumerate(kinds.items()):
        traces += _ribbon(kind, group, colours.categories[number % len(colours.categories)])
    return {
        "data": traces,
        "layout": _layout(
            theme,
            xaxis=axis(theme, "layer", dtick=max(1, last // 8)),
            yaxis=axis(theme, "scale: median, quartiles, range", showgrid=True),
            shapes=[_level(1.0, colours.ink_3)],
        ),
    }


def _ribbon(kind: str, group: list[Any], colour: str) -> list[dict[str, Any]]:
    layers = np.array([one.layer for one in group])
    five = np.stack([one.scale for one in group])
    both = np.concatenate([layers, layers[::-1]])

    def band(low: int, high: int, alpha: float) -> dict[str, Any]:
        return {
            "type": "scatter",
            "mode": "lines",
            "x": both,
            "y": np.concatenate([five[:, high], five[::-1, low]]),
            "fill": "toself",
            "fillcolor": rgba(colour, alpha),
            "line": {"width": 0},
            "hoverinfo": "skip",
            "showlegend": False,
        }

    middle = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": layers,
        "y": five[:, 2],
        "name": kind,
        "line": {"color": colour, "width": 1.8},
        "marker": {"size": 4, "color": colour},
        "customdata": five,
        "hovertemplate": f"{kind}, layer %{{x}}: median %{{y:.3g}}, from %{{customdata[0]:.3g}}"
        " to %{customdata[4]:.3g}<extra></extra>",
    }
    return [band(0, 4, 0.1), band(1, 3, 0.22), middle]


def similarity(report: SimilarityReport, theme: Theme) -> Figure:
    """Overlap of the best tokens by cosine and by distance, by the state's norm."""
    colours = palette(theme)
    low, high = _decades(report)
    title = f"overlap of the best {report.k} by cosine and by distance"
    return {
        "data": [_cells(report, theme), _bins(report, theme), _swept(report, theme)],
        "layout": _layout(
            theme,
            height=HEIGHT + 40,
            xaxis=axis(theme, "L2 norm of the state (log)", type="log", range=[low, high], dtick=1),
            yaxis=axis(theme, title, range=[-0.04, 1.08], tickformat=".0%", showgrid=True),
            shapes=[_upright(1.0, colours.select)],
            annotations=[_label(0.0, "unit ball", colours.select)],
        ),
    }


def _cells(report: SimilarityReport, theme: Theme) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": report.state_norm,
        "y": report.overlap_euclidean,
        "name": "cells",
        "marker": {"size": 5, "color": rgba(palette(theme).ink_3, 0.45)},
        "customdata": np.stack([report.rows, report.positions], -1),
        "hovertemplate": "row %{customdata[0]}, position %{customdata[1]}: norm %{x:.3g},"
        " overlap %{y:.0%}<extra></extra>",
    }


def _swept(report: SimilarityReport, theme: Theme) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": report.swept_norm,
        "y": report.swept_overlap,
        "name": "same directions, other lengths",
        "line": {"color": palette(theme).mlp, "width": 2, "dash": "dot"},
        "marker": {"size": 5, "symbol": "diamond"},
        "hovertemplate": "scaled to norm %{x:.3g}: overlap %{y:.0%}<extra></extra>",
    }


def _bins(report: SimilarityReport, theme: Theme) -> dict[str, Any]:
    colours = palette(theme)
    full = report.bin_counts > 0
    middle = np.sqrt(np.maximum(report.bin_edges[:-1], 1e-9) * report.bin_edges[1:])[full]
    return {
        "type": "scatter",
        "mode": "lines+markers+text",
        "x": middle,
        "y": report.bin_overlap_euclidean[full],
        "name": "mean of a bin, with its number of cells",
        "text": [f"{count:,}" for count in report.bin_counts[full].tolist()],
        "textposition": "top center",
        "textfont": {"size": 10, "color": colours.ink_2},
        "line": {"color": colours.accent, "width": 2},
        "marker": {"size": 7, "color": colours.accent},
        "hovertemplate": "%{text} cells around norm %{x:.3g}: overlap %{y:.0%}<extra></extra>",
    }


def _decades(report: SimilarityReport) -> tuple[float, float]:
    """Ends of the axis as logarithms: all cells and the unit ball fit in it."""
    norms_seen = np.concatenate([report.state_norm, report.swept_norm, [1.0]])
    seen = np.log10(norms_seen[norms_seen > 0])
    return float(seen.min()) - 0.15, float(seen.max()) + 0.15


def _layout(theme: Theme, **more: Any) -> dict[str, Any]:
    return base_layout(theme, **{"height": HEIGHT, "margin": MARGIN, "bargap": 0.06, **more})


def legend(figure: Figure) -> list[tuple[str, str]]:
    """(name, colour) of each trace, if there are several."""
    named = [trace for trace in figure["data"] if "name" in trace]
    pairs = [
        (str(trace["name"]), str((trace.get("line") or trace["marker"])["color"]))
        for trace in named
    ]
    return pairs if len(pairs) > 1 else []


def _upright(at: float, ink: str) -> dict[str, Any]:
    line = {"color": ink, "width": 1.2, "dash": "4px,3px"}
    return {"type": "line", "xref": "x", "yref": "paper", "x0": at, "x1": at, "y0": 0, "y1": 1,
            "line": line}  # fmt: skip


def _level(at: float, ink: str) -> dict[str, Any]:
    line = {"color": ink, "width": 1, "dash": "2px,3px"}
    return {"type": "line", "xref": "paper", "yref": "y", "x0": 0, "x1": 1, "y0": at, "y1": at,
            "layer": "below", "line": line}  # fmt: skip


def _label(at: float, text: str, ink: str, lift: int = 0) -> dict[str, Any]:
    return {
        "x": at,
        "y": 1,
        "xref": "x",
        "yref": "paper",
        "text": text,
        "showarrow": False,
        "xanchor": "left" if at < 0.5 else "right",
        "yanchor": "bottom" if not lift else "top",
        "xshift": 4 if at < 0.5 else -4,
        "font": {"size": 11, "color": ink},
    }
