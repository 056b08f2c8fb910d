"""What the flow picture says in words: its caption and its hover boxes."""

from __future__ import annotations

import numpy as np

from analysis.results import Graph, Grid, RunResult
from dash_app.figures.flow_parts import Spot
from dash_app.figures.flow_rule import USUAL, Rule
from dash_app.figures.flow_select import Drawing, Drawn, select
from dash_app.figures.labels import percent, quoted, row_name, token_markup


def caption(
    graph: Graph, run: RunResult | None = None, grid: Grid | None = None, *, rule: Rule = USUAL
) -> str:
    """What the picture shows and what it leaves out, in a few sentences of plain text."""
    return describe(select(graph, rule), graph, run, grid)


def describe(
    drawing: Drawing, graph: Graph, run: RunResult | None = None, grid: Grid | None = None
) -> str:
    """``caption`` for a drawing already made."""
    shown, soaked = round(100 * drawing.shown), round(100 * drawing.soaked)
    into = _into(graph, run, grid)
    rest = max(100 - shown - soaked, 0)
    links = f"{drawing.thin:,} thinner link{'' if drawing.thin == 1 else 's'}"
    text = f"Showing {shown} % of the flow {into}; other: {rest} %, by {links}."
    if rest == 0 and not drawing.thin:
        text = f"Showing all of the flow {into}."
    return " ".join([text, *_remarks(drawing, graph)])


def _into(graph: Graph, run: RunResult | None, grid: Grid | None) -> str:
    if len(graph.roots) > 1:
        places = f"positions {graph.roots[0]} to {graph.roots[-1]}"
        return f"into the whole answer (row {graph.row}, {places}, evenly)"
    where = f"row {graph.row}, position {graph.position}"
    root = _root_name(graph, run, grid)
    return f"into {root} ({where})" if root else f"into {where}"


def _remarks(drawing: Drawing, graph: Graph) -> list[str]:
    """What else a person must know to read the picture rightly."""
    lines = []
    if drawing.short:
        lines.append("More was asked for than the 300 links that a picture holds.")
    if graph.sink_positions:
        lines.append(
            f"Attention to sinks ({_numbers(graph.sink_positions)}) is folded:"
            f" {percent(drawing.soaked)} of the flow ends there."
        )
    if graph.hidden_positions:
        names = _numbers(graph.hidden_positions)
        done = (
            "and every node's other shares are scaled to sum to 1"
            if graph.reweighted
            else "and its mass counts as not shown"
        )
        lines.append(f"Attention to the start ({names}) is hidden, {done}.")
    if graph.hidden_share > 0.005:
        lines.append(f"{percent(graph.hidden_share)} goes by links that the graph leaves out.")
    if graph.terminal_share > 0.005 and not graph.sink_positions:
        lines.append(f"{percent(graph.terminal_share)} ends in biases or attention sinks.")
    if len(graph.fallback_nodes):
        count = len(graph.fallback_nodes)
        nodes = "1 node" if count == 1 else f"{count} nodes"
        lines.append(f"At {nodes} shares are by norm: no part is close.")
    return lines


def _numbers(positions: tuple[int, ...]) -> str:
    return f"position{'' if len(positions) == 1 else 's'} {', '.join(map(str, positions))}"


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
