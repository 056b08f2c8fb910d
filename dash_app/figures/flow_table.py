"""The links of a flow picture as rows, for the table that the browser makes of them."""

from __future__ import annotations

from typing import Any

from analysis.results import Graph, RunResult
from dash_app.figures.flow_parts import Spot
from dash_app.figures.flow_select import Drawing, Drawn
from dash_app.figures.flow_signed import Bar, Signed
from dash_app.figures.text import label

#: Names of the columns of shares, and of signed flow.
COLUMNS = ("Kind", "Layer", "Heads", "From", "To", "Share", "Flow")
SIGNED_COLUMNS = (*COLUMNS[:5], "Share of all", "Logits")
_KINDS = {"mlp": "MLP"}


def link_rows(drawing: Drawing, run: RunResult) -> dict[str, Any]:
    """Columns and rows of a picture by shares; a row's last value is what a click selects."""
    return {"columns": COLUMNS, "rows": [_row(link, run) for link in drawing.links]}


def signed_rows(drawing: Signed, graph: Graph, run: RunResult) -> dict[str, Any]:
    """The same of a signed picture."""
    whole = drawing.raised - drawing.lowered + drawing.other_raised - drawing.other_lowered
    rows = [_signed_row(bar, graph, run, whole) for bar in drawing.bars]
    return {"columns": SIGNED_COLUMNS, "rows": rows}


def selects(kind: str, layer: int, source: int, target: int, head: int) -> str:
    """What a click on a link selects: its layer, its head, and the link itself."""
    heads = f"&heads={head}" if head >= 0 else ""
    link = f"&link={kind}:{layer}:{source}:{target}:{head}" if kind not in ("sink", "other") else ""
    return f"layer={layer}{heads}{link}"


def _row(link: Drawn, run: RunResult) -> list[Any]:
    residual = link.kind == "residual"
    layer = link.last if residual else link.first
    spans = f"{link.first}–{link.last}" if residual and link.first != link.last else str(layer)
    head = link.heads[0][0] if link.heads else -1
    return [
        _KINDS.get(link.kind, link.kind),
        spans,
        ", ".join(str(number) for number, _ in link.heads[:6]),
        _place(link.source, run),
        _place(link.target, run),
        round(link.share, 5),
        round(link.flow, 5),
        selects(link.kind, layer, link.source.pos, link.target.pos, head),
    ]


def _signed_row(bar: Bar, graph: Graph, run: RunResult, whole: float) -> list[Any]:
    head, layer = (bar.heads[0][0] if bar.heads else -1), max(bar.layer, 0)
    kind = "embedding" if bar.kind == "residual" else _KINDS.get(bar.kind, bar.kind)
    last = graph.row - 1
    return [
        kind,
        "" if bar.layer < 0 else str(bar.layer),
        ", ".join(str(number) for number, _ in bar.heads[:6]),
        f"{bar.source} {label(run.tokens[bar.source], 18)}",
        f"logit at {graph.position}",
        round(abs(bar.logits) / max(whole, 1e-30), 5),
        round(bar.logits, 4),
        selects(bar.kind, min(layer, last), bar.source, graph.position, head),
    ]


def _place(spot: Spot, run: RunResult) -> str:
    token = label(run.tokens[spot.pos], 18)
    where = f"row {spot.depth}" if spot.kind == "block" else f"layer {spot.depth}"
    return f"{spot.pos} {token}, {where}"
