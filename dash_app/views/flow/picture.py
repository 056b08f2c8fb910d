"""The flow graph as a picture: nodes in lanes, and bands between them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypedDict

import numpy as np

from analysis.flow_graph.options import FLOW_METHODS
from analysis.flow_graph.results import LINK_KINDS, CausalCheck, Graph
from analysis.lens.results import Grid
from analysis.tracing.specs import RunResult
from dash_app.page.theme import Figure, Theme, axis, base_layout, palette, rgba
from dash_app.page.token_labels import label, percent, token_markup
from dash_app.page.token_labels import shorten as short
from dash_app.views.flow.captions import decoded, link_hover, link_rows, node_hover, other_hover
from dash_app.views.flow.link_selection import PLAIN, USUAL, Drawing, Look, Rule, select
from dash_app.views.flow.paths import Drawn, Spot
from dash_app.views.flow.placement import Places, place, place_labels, row_names

#: Half the width of a node, and the least width of a band between lanes, in pixels.
HALF, THINNEST = 2.5, 0.7
_ORDER = {"residual": 0, "attention": 1, "mlp": 2}


class Band(NamedTuple):
    """A link as drawn: its middle line from left to right, and its width, in pixels.

    The width of a ``ribbon`` is vertical. The width of a line is across the line, which suits thin
    bands that cross lanes steeply; a line that is as wide as it is long would curl.
    """

    link: Drawn
    x0: float
    y0: float
    x1: float
    y1: float
    width: float
    ribbon: bool


def bands(drawing: Drawing, places: Places) -> list[Band]:
    """The bands of all links, in the drawing's order."""
    ends = _stacked(drawing, places, lambda link: link.target, _entering)
    starts = _stacked(drawing, places, lambda link: link.source, _leaving)
    found = []
    for number, link in enumerate(drawing.links):
        crosses = link.source.pos != link.target.pos
        wide = max(link.flow * places.per_mass, THINNEST if crosses else 0.3)
        x0, x1 = places.x(link.source.level) + HALF, places.x(link.target.level) - HALF
        level = not crosses and link.kind != "attention"
        ribbon = level or wide > 0.6 * (x1 - x0)
        found.append(Band(link, x0, starts[number], x1, ends[number], wide, ribbon))
    return found


def _entering(link: Drawn) -> tuple[Any, ...]:
    return (not link.main, link.source.pos, _ORDER.get(link.kind, 3), link.group, link.source)


def _leaving(link: Drawn) -> tuple[Any, ...]:
    kind = 0 if link.kind == "residual" else 1
    return (not link.main, link.target.pos, kind, link.target.level, link.group)


def _stacked(
    drawing: Drawing,
    places: Places,
    node: Callable[[Drawn], Spot],
    order: Callable[[Drawn], tuple[Any, ...]],
) -> list[float]:
    """The middle of each link where it meets its ``node``."""
    at: dict[Spot, list[int]] = defaultdict(list)
    for number, link in enumerate(drawing.links):
        at[node(link)].append(number)
    middles = [0.0] * len(drawing.links)
    for spot, numbers in at.items():
        tall = drawing.mass.get(spot, 0.0) * places.per_mass
        main = sum(drawing.links[number].flow for number in numbers if drawing.links[number].main)
        # Upwards a state can send more than its own mass: a share of every state that reads it.
        squeeze = min(1.0, tall / (main * places.per_mass)) if main > 0.0 else 1.0
        top = places.y(spot) - tall / 2
        bottom = top + tall
        for number in sorted(numbers, key=lambda number: order(drawing.links[number])):
            wide = drawing.links[number].flow * places.per_mass * squeeze
            middles[number] = min(top + wide / 2, bottom)
            top += wide
    return middles


def other_outline(drawing: Drawing, places: Places) -> list[tuple[float, float]]:
    """The lower edge of the "other" link: at each depth as tall as what is omitted above it.

    Returns:
        Points (x, height) from right to left, in pixels.
    """
    tall, points = 0.0, [(places.x(drawing.high), 0.0)]
    for spot, part in sorted(drawing.other.items(), key=lambda item: -item[0].level):
        x = places.x(spot.level)
        if points[-1][0] > x:
            points.append((x, tall))
        tall += part * places.per_mass
        points.append((x, tall))
    # Corrects rounding, and adds start nodes that are too small to be drawn.
    points.append((places.x(drawing.low), drawing.rest * places.per_mass))
    return points


def covered(drawing: Drawing, links: Iterable[Drawn]) -> dict[Spot, float]:
    """The part of each node's mass that main links carry."""
    brought: dict[Spot, float] = defaultdict(float)
    for link in links:
        if link.main:
            brought[link.target] += link.flow
    return {spot: min(brought[spot], mass) for spot, mass in drawing.mass.items()}


#: Margins: at the left for tokens, at the right for the root's label.
MARGIN = {"left": 128, "right": 96, "top": 20, "bottom": 30}
#: Parts of the flow whose height the key can show.
_KEYS = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)


class Picture(TypedDict):
    """What the browser draws and lists.

    Attributes:
        view: "flow".
        up: The direction.
        width, height: Size of the whole picture.
        margin: The margins around the part that can be zoomed.
        lanes: [y, token, position, whether it is an answer token].
        rows: [x, name].
        nodes: [x, top, height, height covered by drawn links, kind, target of a click, hover].
        links: [source, target, x0, y0, x1, y1, width, kind, whether main, target of a click,
            hover, whether a ribbon]; source and target are indices in ``nodes``.
        other: The "other" link: {outline, top, text, hover}; None if there is none.
        labels: [x, y, text, whether beside its point, zoom from which it is shown].
        key: [height, part of the flow with this height], tallest first.
        table: Columns and rows of the links.
    """

    view: str
    up: bool
    width: float
    height: float
    margin: dict[str, int]
    lanes: list[list[Any]]
    rows: list[list[Any]]
    nodes: list[list[Any]]
    links: list[list[Any]]
    other: dict[str, Any] | None
    labels: list[list[Any]]
    key: list[list[Any]]
    table: dict[str, Any]


def picture(
    graph: Graph,
    run: RunResult,
    grid: Grid | None,
    *,
    rule: Rule = USUAL,
    look: Look = PLAIN,
    drawing: Drawing | None = None,
) -> Picture:
    """The main links into the graph's root, or out of it: tokens at the left, depth to the right.

    Args:
        graph: A graph of shares.
        run: The run, for its tokens.
        grid: Labels the nodes with their best tokens.
        rule: Which links are main.
        look: Which part is drawn, and how.
        drawing: The selected links, if they are already known.
    """
    drawing = drawing or select(graph, rule, look)
    places = place(drawing, len(run.tokens))
    texts = decoded(grid)
    made = bands(drawing, places)
    return {
        "view": "flow",
        "up": drawing.up,
        "width": _px(places.width + MARGIN["left"] + MARGIN["right"]),
        "height": _px(places.height + MARGIN["top"] + MARGIN["bottom"]),
        "margin": MARGIN,
        "lanes": _lanes(places, run),
        "rows": [
            [_px(places.x(row)), f"layer {row - 1}" if row else "embedding"]
            for row in row_names(places)
        ],
        "nodes": _nodes(drawing, places, run, texts),
        "links": _links(drawing, made, run),
        "other": _other(drawing, places),
        "labels": _labels(drawing, places, texts),
        "key": _key(places),
        "table": link_rows(drawing, run),
    }


def _px(value: float) -> float:
    return round(value, 2)


def _lanes(places: Places, run: RunResult) -> list[list[Any]]:
    return [
        [_px(middle), label(run.tokens[pos], 12), pos, pos >= run.prompt_length]
        for pos, (middle, _) in places.lanes.items()
    ]


def _nodes(
    drawing: Drawing, places: Places, run: RunResult, texts: dict[tuple[int, int], str]
) -> list[list[Any]]:
    brought = covered(drawing, drawing.links)
    nodes = []
    for spot, flow in drawing.node_flow.items():
        tall = drawing.mass.get(spot, 0.0) * places.per_mass
        full = spot not in drawing.other
        part = tall if full else brought.get(spot, 0.0) * places.per_mass
        hover = node_hover(spot, drawing, run, texts, seen=flow > 0)
        nodes.append([
            _px(places.x(spot.level)), _px(places.y(spot) - tall / 2), _px(tall), _px(part),
            spot.kind, _selects(spot), hover,
        ])  # fmt: skip
    return nodes


def _selects(spot: Spot) -> str:
    """The target of a click on a node: its state; for a node inside a layer, the layer's output."""
    row = spot.depth if spot.kind == "block" else spot.depth + 1
    return f"row={row}&pos={spot.pos}&layer={max(row - 1, 0)}"


def _links(drawing: Drawing, made: list[Band], run: RunResult) -> list[list[Any]]:
    number = {spot: index for index, spot in enumerate(drawing.node_flow)}
    rows = link_rows(drawing, run)["rows"]
    return [
        [
            number[band.link.source], number[band.link.target],
            *map(_px, band[1:5]), round(band.width, 3), band.link.kind, int(band.link.main),
            row[-1], link_hover(band.link, run, drawing), int(band.ribbon),
        ]
        for band, row in zip(made, rows, strict=True)
    ]  # fmt: skip


def _other(drawing: Drawing, places: Places) -> dict[str, Any] | None:
    if places.other is None:
        return None
    outline = [[_px(x), _px(tall)] for x, tall in other_outline(drawing, places)]
    return {
        "outline": outline,
        "top": _px(places.other),
        "text": f"other {percent(drawing.rest)}",
        "hover": other_hover(drawing),
    }


def _labels(drawing: Drawing, places: Places, texts: dict[tuple[int, int], str]) -> list[list[Any]]:
    small = {
        cell: short(text, 12 if cell[0] == drawing.high else 9) for cell, text in texts.items()
    }
    return [
        [_px(one.x), _px(one.y), one.text, int(one.beside), one.zoom]
        for one in place_labels(drawing, places, small)
    ]


def _key(places: Places) -> list[list[Any]]:
    """Heights, and the parts of the flow with these heights."""
    return [[_px(part * places.per_mass), percent(part)] for part in _KEYS]


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
