"""The strip above the heatmap of a long run: the model's certainty at all positions."""

from __future__ import annotations

from typing import Any

import numpy as np
from dash import dcc
from dash.development.base_component import Component

from analysis.tracing.specs import RunResult
from dash_app.page.panel import GRAPH_CONFIG, aria
from dash_app.page.theme import Figure, Theme, axis, base_layout, palette, rgba
from dash_app.page.thin_layout import html
from dash_app.page.token_labels import token_markup
from dash_app.page.window import Window

LABEL = "Probability of the first choice, and entropy of the prediction, at all positions"
HEIGHT = 74
MARGIN = {"l": 122, "r": 6, "t": 4, "b": 16, "pad": 0, "autoexpand": False}
#: Share of the height that each line has.
LINE = 0.46


def overview(run: RunResult, shown: Window, *, pos: int, theme: Theme) -> Component:
    """The strip as a chart; a click chooses a position and moves the window there."""
    graph: Component = dcc.Graph(
        figure=strip(run, shown, pos=pos, theme=theme),
        config=GRAPH_CONFIG,
        responsive=True,
        style={"height": f"{HEIGHT}px"},
    )
    return html.Div(graph, role="img", **aria(label=LABEL))


def strip(run: RunResult, shown: Window, *, pos: int, theme: Theme) -> Figure:
    """Two lines over all positions, a band for the drawn ones and a line for the chosen one.

    Args:
        run: The run; its ``top_probs`` and ``entropy`` are those of the last row.
        shown: The positions that the heatmap draws.
        pos: The chosen position.
        theme: The page's theme.
    """
    colours, size = palette(theme), len(run.tokens)
    lines = (
        (run.top_probs[:, 0], colours.accent, "y2"),
        (run.entropy, colours.select, "y"),
    )
    texts = _texts(run)
    first, last = (shown.positions[0], shown.positions[-1]) if shown.positions else (pos, pos)
    whole = {"type": "rect", "yref": "paper", "y0": 0, "y1": 1}
    return {
        "data": [_line(values, texts, colour, name) for values, colour, name in lines],
        "layout": base_layout(
            theme,
            margin=MARGIN,
            xaxis=axis(theme, range=[-0.5, size - 0.5], tickfont={"size": 10}, anchor="y"),
            yaxis=_axis(theme, "entropy", colours.select, [0, LINE], float(run.entropy.max())),
            yaxis2=_axis(theme, "top p", colours.accent, [1 - LINE, 1], 1.0),
            shapes=[
                {**whole, "x0": first - 0.5, "x1": last + 0.5, "layer": "below",
                 "fillcolor": rgba(colours.accent, 0.14), "line": {"width": 0}},
                {**whole, "x0": pos, "x1": pos, "line": {"color": colours.select, "width": 1.5}},
            ],
            hovermode="x",
            meta={"view": "overview"},
        ),
    }  # fmt: skip


def _line(values: Any, texts: list[str], colour: str, name: str) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "lines", "x": np.arange(len(values)), "y": values, "yaxis": name,
        "line": {"color": colour, "width": 1}, "text": texts,
        "hovertemplate": "%{text}<extra></extra>",
    }  # fmt: skip


def _texts(run: RunResult) -> list[str]:
    """The text of each position's hover box."""
    names = {token.id: token_markup(token, 18) for token in run.vocabulary}
    return [
        f"position {at}: {token_markup(token, 18)}<br>top p {run.top_probs[at, 0]:.1%}"
        f"  {names[int(run.top_ids[at, 0])]}<br>entropy {run.entropy[at]:.2f} nats"
        for at, token in enumerate(run.tokens)
    ]


def _axis(theme: Theme, name: str, colour: str, domain: list[float], most: float) -> dict[str, Any]:
    return axis(
        theme, domain=domain, range=[0, most * 1.05], tickvals=[most / 2], ticktext=[f"{name} "],
        tickfont={"size": 10, "color": colour}, anchor="x",
    )  # fmt: skip
