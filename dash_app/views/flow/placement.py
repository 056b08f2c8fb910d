"""Places of nodes and labels in a flow picture, in pixels: one lane per token, depth to the right.

Depth runs from left to right so that lanes are as wide as the picture and tokens fit at the left.
Layers where only the residual is drawn are narrow.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

from analysis.flow_graph.results import ENDS
from dash_app.page.token_labels import width
from dash_app.views.flow.link_selection import Drawing
from dash_app.views.flow.paths import Spot

#: Width of the plot area in the page, in pixels.
ROOM = 968
#: Up to this many tokens all have a lane; otherwise only those that drawn links touch.
ALL_LANES = 12
#: Least and most height of a lane, and height of all lanes.
LOW, HIGH, TALL = 38.0, 68.0, 460.0
#: Height of the whole flow at the fixed scale; its most and least at the adaptive scale.
FIXED, TALLEST, LEAST = 36.0, 260.0, 20.0
#: Space for a label above the flow in a lane of the adaptive scale; least height of such a lane.
_PAD, _LOWEST = 20.0, 26.0
#: Width of a layer where only the residual is drawn, relative to other layers.
IDLE = 0.3
#: Most width of a layer in pixels, so that the bands of a small model stay readable.
WIDEST = 240.0
#: Least mass of a node with a label; height of a label and width of a character, in pixels.
LABEL_FLOW, LINE, CHARACTER = 0.025, 14, 6.7
#: Distance of a label from its point: of its middle above, of its start beside.
ABOVE, BESIDE = 8, 10
#: Zoom factors at which further labels appear.
ZOOMS = (1.0, 1.5, 2.25, 3.4, 5.0, 7.6)


class Label(NamedTuple):
    """A node's label, in pixels from the top left corner of the picture without zoom.

    Attributes:
        spot: The node.
        x, y: The point that the label stands above, or beside at the right edge.
        text: The node's best token.
        wide: Width of the text.
        beside: Whether the label stands to the right of the point.
        zoom: The zoom from which there is space for it.
    """

    spot: Spot
    x: float
    y: float
    text: str
    wide: float
    beside: bool = False
    zoom: float = 1.0

    def centre(self, zoom: float) -> tuple[float, float]:
        """The middle of the text at a zoom: points move apart, texts keep their size."""
        x, y = self.x * zoom, self.y * zoom
        return (x + BESIDE + self.wide / 2, y) if self.beside else (x, y - ABOVE)


@dataclass(frozen=True, slots=True)
class Places:
    """The dimensions of the picture, in pixels.

    Attributes:
        lanes: (middle, height) of each position that has a lane, top to bottom.
        rows: The x of each drawn row.
        low: The first drawn row.
        per_mass: Height of a mass of 1.
        width, height: Size of the plot area.
        other: Top of the lane of the "other" link; None if it is not drawn.
    """

    lanes: dict[int, tuple[float, float]]
    rows: tuple[float, ...]
    low: int
    per_mass: float
    width: float
    height: float
    other: float | None = None

    def x(self, level: float) -> float:
        """The x of a level (a row, or a row and a fraction)."""
        at = level - self.low
        whole = min(int(at), len(self.rows) - 1)
        if whole + 1 >= len(self.rows):
            return self.rows[-1]
        return self.rows[whole] + (at - whole) * (self.rows[whole + 1] - self.rows[whole])

    def y(self, spot: Spot) -> float:
        """The y of a node's middle; end nodes lie beside the residual, not on it."""
        middle, tall = self.lanes[spot.pos]
        return middle + (0.34 * tall if spot.kind in ENDS else 0.0)


def place(drawing: Drawing, tokens: int) -> Places:
    """The dimensions of the picture of ``drawing``, for a sequence of ``tokens`` tokens."""
    touched = sorted({spot.pos for spot in drawing.node_flow})
    first = touched[0] if drawing.up else 0  # upwards nothing lies before the root
    positions = list(range(first, touched[-1] + 1)) if tokens <= ALL_LANES else touched
    most: dict[int, float] = defaultdict(float)
    for spot, mass in drawing.mass.items():
        most[spot.pos] = max(most[spot.pos], mass)
    per_mass, heights = _heights([most[pos] for pos in positions], drawing.look.adaptive)
    lanes, top = {}, 0.0
    for pos, tall in zip(positions, heights, strict=True):
        lanes[pos] = (top + tall / 2, tall)
        top += tall
    rows = _rows(drawing)
    other = None if drawing.up or drawing.rest <= 0.0 else top + 10
    height = top if other is None else other + max(drawing.rest * per_mass, 4.0) + 6
    return Places(lanes, rows, drawing.low, per_mass, rows[-1] + 8, height, other)


def _heights(most: list[float], adaptive: bool) -> tuple[float, list[float]]:
    """Height of a mass of 1, and of each lane, given the largest mass in each lane."""
    if not adaptive:
        lane = min(HIGH, max(LOW, TALL / len(most)))
        # Upwards a lane's mass can exceed 1; lanes must not overlap.
        return FIXED, [max(lane, FIXED * mass + 2) for mass in most]
    room = max(TALL, LOW * len(most))
    low, high = LEAST, TALLEST
    for _ in range(30):
        middle = (low + high) / 2
        tall = sum(max(_LOWEST, middle * mass + _PAD) for mass in most)
        low, high = (middle, high) if tall <= room else (low, middle)
    return low, [max(_LOWEST, low * mass + _PAD) for mass in most]


def _rows(drawing: Drawing) -> tuple[float, ...]:
    """The x of each row; a layer is wide if more than the residual is drawn in it."""
    busy = {link.first for link in drawing.links if link.main and link.kind != "residual"}
    layers = range(drawing.low, drawing.high)
    wide = [1.0 if layer in busy else IDLE for layer in layers]
    unit = min(WIDEST, max(24.0, ROOM / sum(wide)))
    places = [8.0]
    for part in wide:
        places.append(places[-1] + part * unit)
    return tuple(places)


def row_names(places: Places) -> list[int]:
    """Rows whose names fit: the edges, then every fifth row, then others."""
    last = places.low + len(places.rows) - 1
    rows = range(places.low, last + 1)
    wanted = [last, places.low, *(row for row in rows if row % 5 == 0), *rows]
    named: list[int] = []
    for row in wanted:
        if all(abs(places.x(row) - places.x(other)) >= 50 for other in named):
            named.append(row)
    return sorted(named)


def place_labels(
    drawing: Drawing, places: Places, texts: dict[tuple[int, int], str]
) -> list[Label]:
    """Labels for nodes with enough mass, the largest first, without overlap.

    The root's label stands to its right, the others above their band. A lane whose best token does
    not change for some rows has one label. At a larger zoom more labels fit, and less mass is
    enough.
    """
    wanted = [spot for spot in drawing.mass if spot.kind == "block" and _key(spot) in texts]
    wanted = [spot for spot in wanted if spot.depth > 0]  # the lane shows the token itself
    wanted.sort(key=lambda spot: (spot not in drawing.roots, -drawing.mass[spot], -spot.depth))
    placed: list[Label] = []
    for zoom in ZOOMS:
        left = [spot for spot in wanted if all(spot != label.spot for label in placed)]
        for spot in (spot for spot in left if drawing.mass[spot] * zoom >= LABEL_FLOW):
            label = _label(spot, drawing, places, texts[_key(spot)])._replace(zoom=zoom)
            if not any(_clash(label, other, zoom) for other in placed):
                placed.append(label)
    return placed


def overlap(label: Label, other: Label, zoom: float = 1.0) -> bool:
    """Whether two labels overlap when their points are ``zoom`` times as far apart."""
    (x, y), (x2, y2) = label.centre(zoom), other.centre(zoom)
    return abs(x - x2) < (label.wide + other.wide) / 2 + 3 and abs(y - y2) < LINE


def _key(spot: Spot) -> tuple[int, int]:
    return spot.depth, spot.pos


def _label(spot: Spot, drawing: Drawing, places: Places, text: str) -> Label:
    wide, x, y = width(text) * CHARACTER, places.x(spot.depth), places.y(spot)
    if spot.depth == drawing.high:
        return Label(spot, x, y, text, wide, beside=True)
    return Label(spot, x, y - drawing.mass[spot] * places.per_mass / 2, text, wide)


def _clash(label: Label, other: Label, zoom: float) -> bool:
    same = label.spot.pos == other.spot.pos and label.text == other.text
    return overlap(label, other, zoom) or (same and abs(label.spot.depth - other.spot.depth) < 6)
