"""The causal check as a figure: the drawn flow of each link, and the effect of cutting it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from analysis.flow_graph.options import FLOW_METHODS
from analysis.flow_graph.results import LINK_KINDS, CausalCheck
from analysis.tracing.specs import RunResult
from dash_app.page.theme import Figure, Theme, axis, base_layout, palette, rgba
from dash_app.page.token_labels import token_markup


def scatter(check: CausalCheck, run: RunResult, *, theme: Theme) -> Figure:
    """One point for each link that was cut: drawn share by the measured effect on the logit.

    The title is the rank correlation. Signed flow keeps its sign.
    """
    signed = FLOW_METHODS[check.method].signed
    y = "logit lost when cut" if signed else "|change of the logit| when cut"
    layout = base_layout(
        theme,
        height=340,
        margin={"l": 72, "r": 24, "t": 40, "b": 52, "pad": 0, "autoexpand": False},
        title={
            "text": title(check),
            "x": 0,
            "xref": "paper",
            "xanchor": "left",
            "y": 0.97,
            "yanchor": "top",
            "font": {"size": 13, "color": palette(theme).ink},
        },
        xaxis=axis(
            theme,
            "drawn: logits" if signed else "drawn: part of the flow",
            showgrid=True,
            **({} if signed else {"tickformat": "~%"}),
        ),
        yaxis=axis(theme, y, showgrid=True, rangemode="tozero"),
        showlegend=True,
        legend={"x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom", "orientation": "h"},
        meta={"view": "flow-check"},
    )
    kinds = [kind for kind in ("attention", "mlp") if _of(check, kind).any()]
    return {"data": [_points(check, kind, run, theme, signed) for kind in kinds], "layout": layout}


def title(check: CausalCheck) -> str:
    """The rank correlation, or why there is none."""
    count = len(check.flow)
    if math.isnan(check.correlation):
        return f"No rank correlation: {count} links cut, fewer than three or all equal"
    return f"Rank correlation (Spearman) {check.correlation:+.2f} over {count} links cut"


def _of(check: CausalCheck, kind: str) -> Any:
    return check.kind == LINK_KINDS.index(kind)


def _points(
    check: CausalCheck, kind: str, run: RunResult, theme: Theme, signed: bool
) -> dict[str, Any]:
    mask = _of(check, kind)
    effect = check.effect[mask]
    colour = getattr(palette(theme), kind)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "MLP" if kind == "mlp" else kind,
        "x": check.flow[mask],
        "y": effect if signed else np.abs(effect),
        "marker": {"size": 7, "color": rgba(colour, 0.75), "line": {"width": 0}},
        "text": [_hover(check, int(number), kind, run) for number in np.flatnonzero(mask)],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _hover(check: CausalCheck, number: int, kind: str, run: RunResult) -> str:
    layer, head = int(check.layer[number]), int(check.head[number])
    source, target = int(check.source_pos[number]), int(check.target_pos[number])
    name = "MLP" if kind == "mlp" else f"head {head}" if head >= 0 else "attention"
    ends = f"{source} {token_markup(run.tokens[source], 14)}"
    if source != target:
        ends += f" → {target} {token_markup(run.tokens[target], 14)}"
    drawn = float(check.flow[number])
    amount = f"{drawn:+.3f} logits" if FLOW_METHODS[check.method].signed else f"{drawn:.2%}"
    return (
        f"<b>layer {layer}, {name}</b><br>{ends}<br>drawn {amount}"
        f"<br>cut: logit {-float(check.effect[number]):+.3f}"
    )
