"""Figures of a suite: accuracy, emergence curves, prompts, and digits."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape as html_escape
from textwrap import wrap
from typing import Any

import numpy as np

from analysis.flow_graph.options import FLOW_METHODS
from analysis.flow_graph.results import LINK_KINDS
from analysis.tasks.suite_effects import SuiteEffects
from analysis.tasks.suite_specs import EmergenceCurve, EmergenceReport, Share, SuiteReport
from dash_app.page.theme import Figure, Theme, axis, base_layout, palette, rgba
from dash_app.page.token_labels import row_name
from dash_app.views.tasks.figure_parts import layer_axis, line, mean_layer

#: Titles of axes.
AFTER = "After layer (emb.: at the embedding)"
MEAN = "Mean layer after which the choice emerges (emb.: at the embedding)"
#: Letters in a line of a group's name.
LETTERS = 14
#: Dashes of the emergence curves, by their order in the report.
_DASHES = ("solid", "solid", "dot", "dash", "dashdot")
#: A curve of fewer prompts than this is marked, because its interval is very wide.
FEW = 10


def emergence(report: EmergenceReport, *, theme: Theme, links: Sequence[str] = ()) -> Figure:
    """Share of answer tokens that have emerged by each row, with 95 % bands.

    ``links`` [prompt] opens a prompt; a click on a point opens one that emerges there.
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
            xaxis=layer_axis(theme, AFTER, last, range=[-0.1, last + 0.1]),
            yaxis=axis(
                theme, "Share emerged", range=[-0.02, 1.03], tickformat=".0%", showgrid=True
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
    """For each row the link to a prompt whose token emerges there, else that of the row before."""
    found, at = [], ""
    for row in range(len(curve.by_row)):
        own = np.flatnonzero(curve.rows == row)
        at = links[int(curve.prompts[own[0]])] if len(own) else at
        found.append(at)
    return found


def few(curve: EmergenceCurve) -> str:
    """The number of tokens, and a note if they are from too few prompts."""
    prompts = len(np.unique(curve.prompts))
    return f"{curve.count}, too few" if prompts < FEW else str(curve.count)


def _line(curve: EmergenceCurve, place: int, theme: Theme, links: Sequence[str]) -> dict[str, Any]:
    return {
        **line(
            np.arange(len(curve.by_row)), curve.by_row, f"{curve.name} ({few(curve)})",
            _curve_colour(place, theme), _DASHES[place % 5],
        ),
        "customdata": _first_at(curve, links) if links else [],
        "text": [row_name(row) for row in range(len(curve.by_row))],
        "hovertemplate": f"%{{text}}: %{{y:.1%}}<br>{curve.name}",
    }  # fmt: skip


def _curve_colour(place: int, theme: Theme) -> str:
    colours = palette(theme)
    return (
        colours.answer, colours.select, colours.mlp, colours.ink_3, colours.bias,
    )[place % 5]  # fmt: skip


def accuracy(shares: Sequence[Share], *, theme: Theme, links: Sequence[str] = ()) -> Figure:
    """Share of right answers in each group, with Wilson intervals.

    ``links`` [group] opens a prompt of the group.
    """
    colours = palette(theme)
    names = [_lines(one) for one in shares]
    below_axis = 22 + 15 * max((name.count("<br>") + 1 for name in names), default=1)
    heights = np.array([one.share for one in shares])
    above = np.array([one.high for one in shares]) - heights
    below = heights - np.array([one.low for one in shares])
    bars = {
        "type": "bar",
        "x": names,
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
            height=200 + below_axis,
            bargap=0.6,
            margin={"l": 64, "r": 16, "t": 16, "b": below_axis, "pad": 0, "autoexpand": False},
            xaxis=axis(theme, tickangle=0),
            yaxis=axis(theme, "Right answers", range=[0, 1.03], tickformat=".0%", showgrid=True),
        ),
    }


def _lines(one: Share) -> str:
    """A group's name in short lines, and its counts."""
    name = [html_escape(line) for line in wrap(one.name, LETTERS)]
    return "<br>".join([*name, f"{one.hits} of {one.total}"])


def prompts(report: SuiteReport, links: Sequence[str], *, theme: Theme) -> Figure:
    """One dot for each prompt: where its choices emerge (mean), right answers above wrong ones.

    ``customdata`` is the target of a click.
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
            xaxis=layer_axis(theme, MEAN, last, range=[-0.2, last + 0.2], showgrid=True),
            yaxis=axis(theme, tickvals=[0, 1], ticktext=["wrong", "right"], range=[-0.4, 1.4]),
        ),
    }  # fmt: skip


def _dots(report: SuiteReport, links: Sequence[str], theme: Theme) -> dict[str, Any]:
    colours = palette(theme)
    right = np.asarray(report.right, bool)
    spread = (np.arange(len(right)) * 0.618) % 1  # golden-ratio steps: even, and the same each time
    texts = [
        f"{html_escape(prompt.splitlines()[-1])}<br>answer: {html_escape(answer)}"
        f"<br>mean layer {mean_layer(row)[0]}"
        for prompt, answer, row in zip(report.prompts, report.written, report.rows, strict=True)
    ]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": report.rows,
        "y": np.where(right, 1.0, 0.0) + 0.5 * (spread - 0.5),
        "customdata": list(links),
        "text": texts,
        "marker": {
            "size": 9,
            "opacity": 0.8,
            "color": [colours.answer if one else colours.select for one in right],
            "symbol": ["circle" if one else "x" for one in right],
        },
        "hovertemplate": "%{text}<extra></extra>",
    }


def by_digit(report: EmergenceReport, *, theme: Theme, links: Sequence[str] = ()) -> Figure:
    """One mark for each digit of the answer, right above wrong; bars are 95 % intervals.

    ``links`` [prompt] opens a prompt; a click on a mark opens one of its prompts.
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
            xaxis=layer_axis(theme, MEAN, last, range=[-0.2, last + 0.2], showgrid=True),
            yaxis=axis(theme, tickvals=list(range(len(names))),
                       ticktext=[_digit_name(name) for name in names],
                       range=[len(names) - 0.4, -0.6]),
        ),
    }  # fmt: skip


def _digit_name(name: str) -> str:
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
    mean, low, high = mean_layer(curve.mean, curve.mean_low, curve.mean_high)
    interval = (
        f"95 % interval {low} to {high}"
        if np.isfinite(curve.mean_low)
        else "too few prompts for an interval"
    )
    return (
        f"{_digit_name(curve.name)}: mean layer {mean}<br>{interval}"
        f"<br>{few(curve)} tokens, {curve.never} never emerge"
    )


#: Roles in the figure.
ROLES = 16


def roles_shown(report: SuiteEffects) -> list[int]:
    """The roles with the largest median effects, of those that half of the prompts have."""
    usual = [at for at in report.order.tolist() if 2 * report.count[at] >= len(report.prompts)]
    return usual[:ROLES]


def effects(report: SuiteEffects, *, theme: Theme) -> Figure:
    """The median effect of each role with its interval, the largest on top."""
    colours = palette(theme)
    shown = roles_shown(report)
    kinds = [LINK_KINDS[report.kind[at]] for at in shown]
    names = [report.name(at) for at in shown]
    dots = _median_dots(
        report.effect[shown], report.effect_low[shown], report.effect_high[shown],
        [colours.mlp if kind == "mlp" else colours.answer for kind in kinds],
        [f"{html_escape(name)}: {report.count[at]} of {len(report.prompts)} prompts"
         for at, name in zip(shown, names, strict=True)],
    )  # fmt: skip
    return _medians(dots, names, "Fall of the answer's logit (lead over the foil)", 264, theme)


def agreement(report: SuiteEffects, *, theme: Theme) -> Figure:
    """The median rank correlation of each method with its interval."""
    names = [FLOW_METHODS[name].label for name in report.methods]
    colour = palette(theme).answer
    dots = _median_dots(report.median, report.low, report.high, [colour] * len(names), names)
    return _medians(dots, names, "Rank correlation", 120, theme, range=[-1.05, 1.05])


def _median_dots(
    values: Any, low: Any, high: Any, colours: Sequence[str], texts: Sequence[str]
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": values,
        "y": list(range(len(values))),
        "marker": {"color": list(colours), "size": 9},
        "error_x": {
            "type": "data", "array": np.nan_to_num(high - values),
            "arrayminus": np.nan_to_num(values - low), "symmetric": False, "thickness": 1.4,
        },
        "text": list(texts),
        "hovertemplate": "%{text}<br>median %{x:.3f}<extra></extra>",
    }  # fmt: skip


def _medians(
    dots: dict[str, Any], names: Sequence[str], title: str, left: int, theme: Theme, **more: Any
) -> Figure:
    colour = palette(theme).ink_3
    return {
        "data": [{**dots, "error_x": {**dots["error_x"], "color": colour}}],
        "layout": base_layout(
            theme,
            meta={"view": "tasks"},
            height=24 * len(names) + 96,
            hovermode="closest",
            margin={"l": left, "r": 16, "t": 16, "b": 52, "pad": 0, "autoexpand": False},
            xaxis=axis(theme, title, showgrid=True, zeroline=True, **more),
            yaxis=axis(theme, tickvals=list(range(len(names))), ticktext=list(names),
                       range=[len(names) - 0.4, -0.6]),
        ),
    }  # fmt: skip
