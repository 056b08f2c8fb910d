"""The flow picture in words: caption, hover boxes, and the list of its links."""

from __future__ import annotations

from typing import Any

import numpy as np

from analysis.contract.specs import PART_NAMES
from analysis.flow_graph.results import Graph
from analysis.lens.results import Grid
from analysis.tracing.specs import RunResult
from dash_app.page.token_labels import label, percent, quoted, row_name
from dash_app.views.flow.link_selection import PLAIN, USUAL, Drawing, Look, Rule, select
from dash_app.views.flow.paths import Drawn, Spot
from dash_app.views.flow.signed_picture import Bar, Signed


def caption(
    graph: Graph,
    run: RunResult | None = None,
    grid: Grid | None = None,
    *,
    rule: Rule = USUAL,
    look: Look = PLAIN,
) -> str:
    """What the picture shows and what it omits, in a few sentences of plain text."""
    return describe(select(graph, rule, look), graph, run, grid)


def describe(
    drawing: Drawing, graph: Graph, run: RunResult | None = None, grid: Grid | None = None
) -> str:
    """``caption`` of a drawing that is already selected."""
    first = _upwards(drawing, graph, run) if drawing.up else _downwards(drawing, graph, run, grid)
    return " ".join([first, *_layers(drawing, graph), *_remarks(drawing, graph)])


def _downwards(drawing: Drawing, graph: Graph, run: RunResult | None, grid: Grid | None) -> str:
    shown, soaked = round(100 * drawing.shown), round(100 * drawing.soaked)
    into = _into(graph, run, grid)
    rest = max(round(100 * drawing.whole) - shown - soaked, 0)
    if rest == 0 and not drawing.thin:
        return f"Showing all of the flow {into}."
    shows = f"Showing {_rounded(drawing.shown)} of the flow {into}"
    return f"{shows}; other: {rest} %, in {_thinner(drawing)}."


def _rounded(part: float) -> str:
    """A share in whole percent; a very small one with more digits."""
    return percent(part) if 0.0 < part < 0.005 else f"{round(100 * part)} %"


def _upwards(drawing: Drawing, graph: Graph, run: RunResult | None) -> str:
    """The caption upwards, where a share is a share of the state that is reached."""
    shown = round(100 * drawing.shown)
    rest = f"; other: {100 - shown} %, in {_thinner(drawing)}" if drawing.thin else ""
    name = f"{quoted(run.tokens[graph.position])} " if run is not None else ""
    return (
        f"Showing {_rounded(drawing.shown)} of what reaches the state {row_name(drawing.high)}"
        f" from {name}"
        f"({row_name(graph.row)}, position {graph.position}){rest}."
        " A band's width is its share of the state that it enters, so the bands that leave a state"
        " can be wider than the state."
    )


def _thinner(drawing: Drawing) -> str:
    return f"{drawing.thin:,} thinner link{'' if drawing.thin == 1 else 's'}"


def _layers(drawing: Drawing, graph: Graph) -> list[str]:
    """The layers that are not drawn, folded into the picture's edges."""
    lines = []
    top = drawing.high if drawing.up else graph.row
    if drawing.high < top:
        lines.append(
            f"Layers {drawing.high} to {top - 1} are folded into the right edge:"
            f" {percent(drawing.whole)} of the flow passes the state {row_name(drawing.high)}."
        )
    if drawing.up and drawing.low > graph.row:
        lines.append(f"Layers {graph.row} to {drawing.low - 1} are folded into the left edge.")
    if not drawing.up and drawing.low > 0:
        lines.append(f"Layers 0 to {drawing.low - 1} are folded into the left edge.")
    return lines


def _into(graph: Graph, run: RunResult | None, grid: Grid | None) -> str:
    if len(graph.roots) > 1:
        places = f"positions {graph.roots[0]} to {graph.roots[-1]}"
        return f"into the whole answer ({row_name(graph.row)}, {places}, weighted equally)"
    where = f"the state {row_name(graph.row)}, position {graph.position}"
    root = _root_name(graph, run, grid)
    return f"into {root} ({where})" if root else f"into {where}"


def _remarks(drawing: Drawing, graph: Graph) -> list[str]:
    """Further facts that are needed to read the picture correctly."""
    lines = []
    if drawing.short:
        lines.append("The rule selects more links than a picture can show (300).")
    if graph.sink_positions:
        lines.append(
            f"Attention to sinks ({_numbers(graph.sink_positions)}) is folded:"
            f" {percent(drawing.soaked)} of the flow ends there in drawn links."
        )
    if graph.hidden_positions:
        names = _numbers(graph.hidden_positions)
        done = (
            "and the other shares of every node are scaled to sum to 1"
            if graph.reweighted
            else "and its mass counts as not shown"
        )
        lines.append(f"Attention to the start ({names}) is hidden, {done}.")
    if graph.hidden_share > 0.005 and _is_whole(drawing, graph):
        start = "to the hidden start or " if graph.hidden_positions and not graph.reweighted else ""
        of = "of it" if drawing.up else "of the flow"
        lines.append(
            f"Of the other, {percent(graph.hidden_share)} {of} goes {start}through links too thin"
            " for the graph itself."
        )
    if graph.terminal_share > 0.005 and not graph.sink_positions:
        lines.append(
            f"{percent(graph.terminal_share)} ends in biases, attention sinks or other parts."
        )
    if len(graph.fallback_nodes):
        count = len(graph.fallback_nodes)
        nodes = "1 node" if count == 1 else f"{count} nodes"
        lines.append(f"At {nodes} every part scores 0, so the shares are by norm.")
    return lines


def _is_whole(drawing: Drawing, graph: Graph) -> bool:
    """Whether all layers are drawn, so that the graph's hidden share is hidden here too."""
    if drawing.up:
        return (drawing.low, drawing.high) == (graph.row, int(graph.node_depth.max()))
    return (drawing.low, drawing.high) == (0, graph.row)


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
    """The best token of each block state, as plain text by (row, position)."""
    if grid is None or grid.component != "block_output":
        return {}
    names = {token.id: label(token, 14) for token in grid.vocabulary}
    rows, positions = grid.rows.tolist(), grid.positions.tolist()
    best = grid.token_ids[..., 0].tolist()
    return {
        (row, position): names[best[i][j]]
        for i, row in enumerate(rows)
        for j, position in enumerate(positions)
        if names.get(best[i][j])
    }


def node_hover(
    spot: Spot,
    drawing: Drawing,
    run: RunResult,
    texts: dict[tuple[int, int], str],
    *,
    seen: bool,
) -> list[str]:
    """The text of a node's hover box: a title and lines."""
    kinds = {"mid": f"layer {spot.depth}, between attention and MLP", "mlp": f"MLP {spot.depth}"}
    title = row_name(spot.depth)
    if spot.kind != "block":
        title = kinds.get(spot.kind, f"layer {spot.depth}, {spot.kind}")
    lines = [title, f"position {spot.pos} {label(run.tokens[spot.pos], 18)}"]
    reads = texts.get((spot.depth, spot.pos)) if spot.kind == "block" else None
    if reads:
        lines.append(f"predicts {reads}")
    if not seen:
        return [*lines, "shown on hover only"]
    held = percent(drawing.mass[spot])
    lines.append(f"{held} of it comes from the root" if drawing.up else f"{held} of the flow")
    if drawing.other.get(spot, 0.0) > 0.0:
        lines.append(f"other: {percent(drawing.other[spot])} in links that are not drawn")
    return lines


def link_hover(link: Drawn, run: RunResult, drawing: Drawing) -> list[str]:
    """The text of a link's hover box."""
    layers = (
        f"layer {link.first}" if link.first == link.last else f"layers {link.first}–{link.last}"
    )
    source, target = (
        f"{spot.pos} {label(run.tokens[spot.pos], 18)}" for spot in (link.source, link.target)
    )
    kind = _KINDS.get(link.kind, link.kind)
    moved = f"from position {source} to {target}"
    of = "of the target comes from the root through this link" if drawing.up else "of the flow"
    lines = [
        f"{layers}: {kind}",
        moved if link.source.pos != link.target.pos else f"at position {source}",
        f"{percent(link.flow)} {of}, {percent(link.share)} of what enters",
    ]
    lines += [f"  head {head}: {percent(share)}" for head, share in link.heads[:4]]
    if len(link.heads) > 4:
        lines.append(f"  {len(link.heads) - 4} more heads")
    if link.along > 0.005:
        lines.append(f"{percent(link.along)} of it in thin MLP and same-position attention links")
    return lines


def other_hover(drawing: Drawing) -> list[str]:
    """The text of the hover box of the "other" link."""
    return [
        f"other: {percent(drawing.rest)} of the flow",
        f"omitted at {sum(part > 0.0 for part in drawing.other.values())} states, in"
        f" {_thinner(drawing)}",
        "grows to the left as more is omitted",
    ]


#: Columns of the list of shares, and of the list of signed flow.
COLUMNS = ("Kind", "Layer", "Heads", "From", "To", "Share", "Flow")
SIGNED_COLUMNS = (*COLUMNS[:5], "Share of all", "Logits")
_KINDS = PART_NAMES
#: Most heads of a link that are named in a row.
NAMED = 6


def link_rows(drawing: Drawing, run: RunResult) -> dict[str, Any]:
    """Columns and rows of the list of links; a row's last value is what a click selects.

    ``others`` are the parts of the nodes that no drawn link carries, so that the flows into a node
    add up.
    """
    others = [
        ["other", _layer(spot), "", "links not drawn", _place(spot, run),
         round(part / max(drawing.mass[spot], 1e-30), 5), round(part, 5), ""]
        for spot, part in drawing.other.items() if part > 5e-6
    ]  # fmt: skip
    rows = [_row(link, run) for link in drawing.links]
    return {"columns": COLUMNS, "rows": rows, "others": others}


def _layer(spot: Spot) -> str:
    return str(spot.depth - 1 if spot.kind == "block" else spot.depth)


def signed_rows(drawing: Signed, graph: Graph, run: RunResult) -> dict[str, Any]:
    """The same for signed flow."""
    rows = [_signed_row(bar, graph, run, drawing.size) for bar in drawing.bars]
    return {"columns": SIGNED_COLUMNS, "rows": rows}


def selects(
    kind: str, layer: int, source: int, target: int, head: int, chosen: tuple[int, ...] = ()
) -> str:
    """The target of a click on a link: its layer, its head or heads, and the link itself."""
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
        _link_numbers(link.heads),
        _place(link.source, run),
        _place(link.target, run),
        round(link.share, 5),
        round(link.flow, 5),
        selects(link.kind, layer, link.source.pos, link.target.pos, _head(link), _chosen(link)),
    ]


def _link_numbers(heads: tuple[tuple[int, float], ...]) -> str:
    """The strongest heads, and the number of the others."""
    more = f" and {len(heads) - NAMED} more" if len(heads) > NAMED else ""
    return ", ".join(str(number) for number, _ in heads[:NAMED]) + more


def _head(link: Drawn) -> int:
    return link.heads[0][0] if link.heads else -1


def _chosen(link: Drawn) -> tuple[int, ...]:
    """The heads that a click selects: all heads of a group, else none but the strongest."""
    return tuple(sorted(head for head, _ in link.heads)) if link.group >= 0 else ()


def _signed_row(bar: Bar, graph: Graph, run: RunResult, whole: float) -> list[Any]:
    head, layer = (bar.heads[0][0] if bar.heads else -1), max(bar.layer, 0)
    kind = "embedding" if bar.kind == "residual" else _KINDS.get(bar.kind, bar.kind)
    last = graph.row - 1
    return [
        kind,
        "" if bar.layer < 0 else str(bar.layer),
        _link_numbers(bar.heads),
        f"{bar.source} {label(run.tokens[bar.source], 18)}",
        f"logit at {graph.position}",
        round(abs(bar.logits) / max(whole, 1e-30), 5),
        round(bar.logits, 4),
        selects(bar.kind, min(layer, last), bar.source, graph.position, head),
    ]


def _place(spot: Spot, run: RunResult) -> str:
    token = label(run.tokens[spot.pos], 18)
    where = row_name(spot.depth) if spot.kind == "block" else f"layer {spot.depth}"
    return f"{spot.pos} {token}, {where}"
