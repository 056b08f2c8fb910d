"""The attention panel: layer, heads, matrices."""

from __future__ import annotations

import math
from enum import StrEnum

from dash import dcc, html
from dash.development.base_component import Component

from analysis.tracing.specs import PatternResult
from dash_app.page.controls import aria, go, target
from dash_app.page.panel import control, graph, panel
from dash_app.page.token_labels import percent
from dash_app.state.context import Context
from dash_app.state.selection import toggle


class AttentionId(StrEnum):
    """What callbacks of this view name."""

    GRAPH = "attention-graph"
    LAYER = "attention-layer"
    HEADS = "attention-heads"
    SUBTITLE = "attention-subtitle"


HELP = (
    "Rows are queries (the token that reads), columns keys (the token read); each row sums to 1:"
    " softmax(q · k / √d_head) over what came before (Vaswani et al., 2017).",
    "Heads are ordered by how much they write at the chosen position in this layer: the L2 norm of"
    " what the head adds to the residual stream, over the sum of these norms. A bright cell does"
    " not by itself mean that much is written.",
    "Choose several heads to see them side by side; none shows the mean, which wipes out much of"
    " the structure. A click chooses the query's position and this layer's output.",
)


def layout(_context: Context) -> Component:
    """Slider, heads and matrices."""
    slider = html.Div(
        dcc.Slider(
            id=AttentionId.LAYER,
            min=0,
            max=29,
            step=1,
            value=0,
            marks=None,
            included=False,
            allow_direct_input=True,
            tooltip={"placement": "bottom"},
        ),
        className="layer-slider",
    )
    body = [
        html.Div([control("Layer", slider, wide=True)], className="controls attention-controls"),
        html.Div(
            id=AttentionId.HEADS,
            className="head-list",
            role="group",
            **aria(label="Heads, by how much they write"),
        ),
        graph(AttentionId.GRAPH, "Attention pattern: queries by keys", height=420),
    ]
    return panel(
        "attention",
        "Who reads whom",
        body,
        help_text=HELP,
        subtitle="Attention of the chosen layer and heads.",
        subtitle_id=AttentionId.SUBTITLE,
    )


def head_list(pattern: PatternResult, pos: int, chosen: tuple[int, ...]) -> list[Component]:
    """One button a head, those that write most first."""
    shares = pattern.head_share[:, pos]
    order = sorted(range(len(shares)), key=lambda head: -float(shares[head]))
    most = max(float(shares[order[0]]), 1e-9)
    mean = go(
        "mean",
        target(heads=()),
        f"head{'' if chosen else ' is-selected'}",
        label="Mean of all heads",
        pressed=not chosen,
    )
    return [mean, *(_head(head, float(shares[head]), most, chosen) for head in order)]


def _head(head: int, share: float, most: float, chosen: tuple[int, ...]) -> Component:
    on = head in chosen
    width = f"{share / most * 100:.0f}%" if math.isfinite(share) else "0%"
    return go(
        [
            html.Span(f"H{head}", className="head-name"),
            html.Span(percent(share), className="head-share num"),
            html.Span(className="head-bar", style={"width": width}),
        ],
        toggle("heads", head, chosen),
        f"head{' is-selected' if on else ''}",
        label=f"Head {head}, writes {percent(share)}",
        pressed=on,
    )
