"""The links of a flow picture as rows, for the table that the browser makes of them."""

from __future__ import annotations

from typing import Any

from analysis.results import Graph, RunResult
from dash_app.figures.flow_parts import Spot
from dash_app.figures.flow_select import Drawing
from dash_app.figures.flow_signed_select import Bar, Signed
from dash_app.figures.flow_walk import Drawn
from dash_app.figures.text import label

#: Names of the columns of shares, and of signed flow.
COLUMNS = ("Kind", "Layer", "Heads", "From", "To", "Share", "Flow")
SIGNED_COLUMNS = (*COLUMNS[:5], "Share of all", "Logits")
_KINDS = {"mlp": "MLP"}
#: Heads of a link that are named in a row.
NAMED = 6


def link_rows(drawing: Drawing, run: RunResult) -> dict[str, Any]:
    """Columns and rows of a picture by shares; a row's last value is what a click selects.

    ``others`` are the nodes' parts that no drawn link brings, so that flows into a node add up.
    """
    others = [
        ["other", _layer(spot), "", "by links not drawn", _place(spot, run),
         round(part / max(drawing.mass[spot], 1e-30), 5), round(part, 5), ""]
        for spot, part in drawing.other.items() if part > 5e-6
    ]  # fmt: skip
    rows = [_row(link, run) for link in drawing.links]
    return {"columns": COLUMNS, "rows": rows, "others": others}


def _layer(spot: Spot) -> str:
    return str(spot.depth - 1 if spot.kind == "block" else spot.depth)


def signed_rows(drawing: Signed, graph: Graph, run: RunResult) -> dict[str, Any]:
    """The same of a signed picture."""
    rows = [_signed_row(bar, graph, run, drawing.size) for bar in drawing.bars]
    return {"columns": SIGNED_COLUMNS, "rows": rows}


def selects(
    kind: str, layer: int, source: int, target: int, head: int, chosen: tuple[int, ...] = ()
) -> str:
    """What a click on a link selects: its layer, its head or heads, and the link itself."""
    heads = f"&heads={','.join(map(str, chosen or (head,)))}" if head >= 0 else ""
    link = f"&link={kind}:{layer}:{source}:{target}:{head}" if kind not in ("sink", "other") else ""
    return f"layer={layer}{heads}{link}"


def _row(link: Drawn, run: RunResult) -> list[Any]:
    residual = link.kind == "residual"
    layer = link.last if residual else link.first
    spans = f"{link.first}–{link.last}" if residual and link.first != link.last else str(layer)
    return [
        _KINDS.get(link.kind, link.kind),
        spans,
        _numbers(link.heads),
        _place(link.source, run),
        _place(link.target, run),
        round(link.share, 5),
        round(link.flow, 5),
        selects(link.kind, layer, link.source.pos, link.target.pos, _head(link), _chosen(link)),
    ]


def _numbers(heads: tuple[tuple[int, float], ...]) -> str:
    """The strongest heads, and how many more there are."""
    more = f" and {len(heads) - NAMED} more" if len(heads) > NAMED else ""
    return ", ".join(str(number) for number, _ in heads[:NAMED]) + more


def _head(link: Drawn) -> int:
    return link.heads[0][0] if link.heads else -1


def _chosen(link: Drawn) -> tuple[int, ...]:
    """The heads that a click shows: all that a link of a group stands for, else the strongest."""
    return tuple(sorted(head for head, _ in link.heads)) if link.group >= 0 else ()


def _signed_row(bar: Bar, graph: Graph, run: RunResult, whole: float) -> list[Any]:
    head, layer = (bar.heads[0][0] if bar.heads else -1), max(bar.layer, 0)
    kind = "embedding" if bar.kind == "residual" else _KINDS.get(bar.kind, bar.kind)
    last = graph.row - 1
    return [
        kind,
        "" if bar.layer < 0 else str(bar.layer),
        _numbers(bar.heads),
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
