"""The flow graph as a picture: where the mass of one state comes from, or goes.

Plain values that ``assets/js/flow.js`` makes an SVG of, in milliseconds: positions are pixels,
texts are plain text, colours are the style sheet's, so a change of theme draws nothing anew.
"""

from __future__ import annotations

from typing import Any, TypedDict

from analysis.results import Graph, Grid, RunResult
from dash_app.figures.flow_bands import Band, bands, covered, other_outline
from dash_app.figures.flow_parts import Spot
from dash_app.figures.flow_place import Places, place, place_labels, row_names
from dash_app.figures.flow_rule import PLAIN, USUAL, Look, Rule
from dash_app.figures.flow_select import Drawing, select
from dash_app.figures.flow_table import link_rows
from dash_app.figures.flow_text import (
    caption,
    decoded,
    describe,
    link_hover,
    node_hover,
    other_hover,
)
from dash_app.figures.labels import label, percent
from dash_app.figures.labels import shorten as short

__all__ = ["caption", "describe", "picture"]

#: Room at the left for token texts, at the right for what the root reads as, above and below.
MARGIN = {"left": 128, "right": 96, "top": 16, "bottom": 30}
#: Parts of the flow that the key may show as tall.
_KEYS = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)


class Picture(TypedDict):
    """What the browser draws, and lists in its table.

    Attributes:
        view: "flow".
        up: The direction.
        width, height: The whole picture; margin: around what can be zoomed.
        lanes: [y, token, position, whether of the answer].
        rows: [x, name].
        nodes: [x, top, height, height covered by drawn links, kind, what a click selects, hover].
        links: [source, target, x0, y0, x1, y1, width, kind, whether main, what a click selects,
            hover, whether a ribbon]; source and target are places in ``nodes``.
        other: The "other" link: {outline, top, text, hover}; None where there is none.
        labels: [x, y, text, whether beside its point, zoom from which on].
        key: [height, part of the flow that is so tall], tallest first; zoomed, a smaller one.
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
    """The main ways into the graph's root, or out of it: tokens at the left, depth to the right.

    ``grid`` labels nodes with what they read as; ``rule`` says which links are main and ``look``
    how; ``drawing``, if at hand, is what they chose.
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
            [_px(places.x(row)), f"row {row}" if row else "embedding"] for row in row_names(places)
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
    """What a click on a node selects: its state; the inside of a layer belongs to its output."""
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
    """Heights, and the parts of the flow that are drawn so tall."""
    return [[_px(part * places.per_mass), percent(part)] for part in _KEYS]
