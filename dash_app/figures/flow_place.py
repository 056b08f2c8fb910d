"""Where the nodes and labels of a flow picture lie, in pixels: lanes are tokens, depth goes right.

Depth runs from left to right because a link that crosses lanes must not run flatter than 45
degrees for long: a band drawn across its own direction looks thinner than it is. With depth
upwards, lanes are as wide as a token's text and heads that read a neighbour look like threads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from dash_app.figures.flow_parts import ENDS, Spot
from dash_app.figures.flow_select import Drawing, Drawn
from dash_app.figures.labels import markup as mark
from dash_app.figures.labels import plain, shorten, width

#: Room that a panel of the page has for the plot area, in pixels.
ROOM = 968
#: Up to so many tokens all have a lane; of more, only those that drawn links touch.
ALL_LANES = 12
LOW, HIGH, TALL = 38.0, 68.0, 460.0
#: Least width of an attention link that crosses lanes.
THINNEST = 0.7
#: A label needs this much of the root's mass at its node, and this much room, in pixels.
LABEL_FLOW, LINE, CHARACTER = 0.025, 14, 6.7


class Label(NamedTuple):
    """A node's label: its middle, in pixels from the plot's top left corner."""

    spot: Spot
    x: float
    y: float
    text: str
    wide: float


@dataclass(frozen=True, slots=True)
class Places:
    """The picture's measures, in pixels.

    Attributes:
        positions: Positions that have a lane, top to bottom.
        lane: Height of one.
        step: Width of one row of depth.
        top_row: The root's row.
        inner_width, inner_height: The plot area.
        margin: Around it.
        root_size: How tall the whole mass is.
        scale_value: The value of an unseen link that makes plotly draw the root so tall.
    """

    positions: tuple[int, ...]
    lane: float
    step: float
    top_row: int
    inner_width: float
    inner_height: float
    margin: dict[str, Any]
    root_size: float
    scale_value: float

    @property
    def width(self) -> int:
        """Of the whole figure."""
        return int(self.inner_width + self.margin["l"] + self.margin["r"])

    @property
    def height(self) -> int:
        """Of the whole figure."""
        return int(self.inner_height + self.margin["t"] + self.margin["b"])

    def x(self, level: float) -> float:
        """Where a level (row, or row and a half) lies, from the left."""
        return 8 + level * self.step

    def y(self, position: int) -> float:
        """The middle of a position's lane, from the top."""
        return (self.positions.index(position) + 0.5) * self.lane

    def outline(self, link: Drawn) -> float:
        """Width of the line drawn round a link so that a steep band keeps its width.

        Plotly's bands have their width across the page, not across themselves: where one runs at
        an angle, only the cosine of it is left. Half of the line lies outside on either side.
        """
        size = link.flow * self.root_size
        across = self.y(link.source.pos) - self.y(link.target.pos)
        along = (link.target.level - link.source.level) * self.step
        if link.kind == "residual" or not across:
            return 0.0
        lost = size * (1 - math.cos(math.atan2(1.5 * abs(across), max(along, 1.0))))
        return float(max(lost, THINNEST))

    def fraction(self, spot: Spot) -> tuple[float, float]:
        """Node x and y as plotly takes them."""
        below = 0.3 * self.lane if spot.kind in ENDS else 0.0  # beside the residual, not under it
        return self.x(spot.level) / self.inner_width, (self.y(spot.pos) + below) / self.inner_height


def place(drawing: Drawing, tokens: int) -> Places:
    """Measure the picture of ``drawing`` over a sequence of ``tokens`` tokens."""
    touched = sorted({spot.pos for spot in drawing.node_flow})
    positions = tuple(range(touched[-1] + 1)) if tokens <= ALL_LANES else tuple(touched)
    lane = min(HIGH, max(LOW, TALL / len(positions)))
    top_row = drawing.root.depth
    step = min(76.0, max(24.0, ROOM / max(top_row, 1)))
    inner_height = lane * len(positions)
    root_size = 0.95 * lane
    return Places(
        positions,
        lane,
        step,
        top_row,
        top_row * step + 16,
        inner_height,
        {"l": 116, "r": 92, "t": 14, "b": 40, "pad": 0, "autoexpand": False},
        root_size,
        max(inner_height / root_size - 1, 0.01),
    )


def place_labels(
    drawing: Drawing, places: Places, texts: dict[tuple[int, int], str]
) -> list[Label]:
    """Labels for nodes that carry enough, none over another: the largest first.

    The root's stands to its right, the others above their band. A lane that reads the same for a
    while is labelled once.
    """
    wanted = [
        spot
        for spot, flow in drawing.node_flow.items()
        if spot.kind == "block" and flow >= LABEL_FLOW and spot.depth > 0 and _key(spot) in texts
    ]
    wanted.sort(key=lambda spot: (spot not in drawing.roots, -drawing.node_flow[spot], -spot.depth))
    placed: list[Label] = []
    for spot in wanted:
        label = _label(spot, drawing, places, texts[_key(spot)])
        if not any(_clash(label, other) for other in placed):
            placed.append(label)
    return placed


def overlap(label: Label, other: Label) -> bool:
    """Whether two labels cover each other."""
    across = abs(label.x - other.x) < (label.wide + other.wide) / 2 + 3
    return across and abs(label.y - other.y) < LINE


def _key(spot: Spot) -> tuple[int, int]:
    return spot.depth, spot.pos


def _label(spot: Spot, drawing: Drawing, places: Places, text: str) -> Label:
    is_root = spot in drawing.roots
    short = mark(shorten(plain(text), 12 if is_root else 9))
    wide = width(plain(short)) * CHARACTER
    if is_root:
        return Label(spot, places.x(spot.depth) + 13 + wide / 2, places.y(spot.pos), short, wide)
    half = drawing.node_flow[spot] * places.root_size / 2
    return Label(spot, places.x(spot.depth), places.y(spot.pos) - half - 8, short, wide)


def _clash(label: Label, other: Label) -> bool:
    same = label.spot.pos == other.spot.pos and label.text == other.text
    return overlap(label, other) or (same and abs(label.spot.depth - other.spot.depth) < 6)
