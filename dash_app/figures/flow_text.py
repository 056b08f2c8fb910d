"""What the flow picture says in words: its caption and its hover boxes."""

from __future__ import annotations

import numpy as np

from analysis.results import Graph, Grid, RunResult
from dash_app.figures.flow_select import Drawing, Drawn, Spot, select
from dash_app.figures.labels import percent, quoted, row_name, token_markup


def caption(
    graph: Graph, run: RunResult | None = None, grid: Grid | None = None, *, sources: int = 2
) -> str:
    """What the picture shows and what it leaves out, in one or two sentences of plain text."""
    return describe(select(graph, sources), graph, run, grid)


def describe(
    drawing: Drawing, graph: Graph, run: RunResult | None = None, grid: Grid | None = None
) -> str:
    """``caption`` for a drawing already made."""
    shown = round(100 * drawing.shown)
    where = f"row {graph.row}, position {graph.position}"
    root = _root_name(graph, run, grid)
    into = f"into {root} ({where})" if root else f"into {where}"
    links = f"{drawing.thin:,} thinner link{'' if drawing.thin == 1 else 's'}"
    text = f"Showing {shown} % of the flow {into}; {100 - shown} % reaches the tokens by {links}."
    if shown == 100 and not drawing.thin:
        text = f"Showing all of the flow {into}."
    if graph.hidden_share > 0.005:
        text += f" Of that, {percent(graph.hidden_share)} goes by links that the graph leaves out."
    if graph.terminal_share > 0.005:
        text += f" {percent(graph.terminal_share)} ends in biases or attention sinks."
    if len(graph.fallback_nodes):
        text += f" At {len(graph.fallback_nodes)} nodes shares are by norm: no part is close."
    return text


def _root_name(graph: Graph, run: RunResult | None, grid: Grid | None) -> str:
    if grid is not None and graph.row in grid.rows and graph.position in grid.positions:
        row = int(np.flatnonzero(grid.rows == graph.row)[0])
        column = int(np.flatnonzero(grid.positions == graph.position)[0])
        best = int(grid.token_ids[row, column, 0])
        return quoted(grid.token(best)) if best >= 0 else ""
    if run is not None and graph.row == run.info.layers:
        best = int(run.top_ids[graph.position, 0])
        return next((quoted(token) for token in run.vocabulary if token.id == best), "")
    return ""


def decoded(grid: Grid | None) -> dict[tuple[int, int], str]:
    """What each block state reads as: markup by (row, position)."""
    if grid is None or grid.component != "block_output":
        return {}
    names = {token.id: token_markup(token, 14) for token in grid.vocabulary}
    rows, positions = grid.rows.tolist(), grid.positions.tolist()
    best = grid.token_ids[..., 0].tolist()
    return {
        (row, position): names.get(best[i][j], "")
        for i, row in enumerate(rows)
        for j, position in enumerate(positions)
    }


def node_hover(spot: Spot, flow: float, run: RunResult, texts: dict[tuple[int, int], str]) -> str:
    """What a node's hover box says (markup)."""
    token = token_markup(run.tokens[spot.pos], 18)
    place_name = f"position {spot.pos} {token}"
    kinds = {"mid": f"layer {spot.depth}, between attention and MLP", "mlp": f"MLP {spot.depth}"}
    title = f"row {spot.depth}, {row_name(spot.depth)}"
    title = (
        title if spot.kind == "block" else kinds.get(spot.kind, f"layer {spot.depth}, {spot.kind}")
    )
    lines = [f"<b>{title}</b>", place_name]
    decoded = texts.get((spot.depth, spot.pos)) if spot.kind == "block" else None
    if decoded:
        lines.append(f"reads as {decoded}")
    lines.append(f"{_amount(flow)} of the flow passes by drawn links" if flow else "on hover only")
    return "<br>".join(lines)


def link_hover(link: Drawn, run: RunResult) -> str:
    """What a link's hover box says (markup)."""
    layers = (
        f"layer {link.first}" if link.first == link.last else f"layers {link.first}–{link.last}"
    )
    source, target = (
        f"{spot.pos} {token_markup(run.tokens[spot.pos], 18)}"
        for spot in (link.source, link.target)
    )
    lines = [f"<b>{layers}: {link.kind if link.kind != 'mlp' else 'MLP'}</b>"]
    moved = f"from position {source} to {target}"
    lines.append(moved if link.source.pos != link.target.pos else f"at position {source}")
    lines.append(f"{_amount(link.flow)} of the flow, {_amount(link.share)} of what enters")
    lines += [f"  head {head}: {_amount(share)}" for head, share in link.heads[:4]]
    if len(link.heads) > 4:
        lines.append(f"  {len(link.heads) - 4} more heads")
    if link.along > 0.005:
        lines.append(f"{_amount(link.along)} of it by thin MLP and own-position attention")
    return "<br>".join(lines)


def _amount(value: float) -> str:
    return percent(value).replace("<", "&lt;").replace(">", "&gt;")
