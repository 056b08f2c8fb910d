"""Where the nodes and labels of a flow picture lie, in pixels: lanes are tokens, depth goes right.

Depth runs from left to right because lanes are then as wide as the picture, and token texts have
room at their left. Layers in which nothing but the residual is drawn are narrow.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

from dash_app.page.token_labels import width
from dash_app.views.flow.link_selection import Drawing
from dash_app.views.flow.paths import ENDS, Spot

#: Room that a panel of the page has for the plot area, in pixels.
ROOM = 968
#: Up to so many tokens all have a lane; of more, only those that drawn links touch.
ALL_LANES = 12
#: Least and most height of a lane, and of all of them.
LOW, HIGH, TALL = 38.0, 68.0, 460.0
#: How tall the whole flow is at the fixed scale, and at most and least at the adaptive one.
FIXED, TALLEST, LEAST = 36.0, 260.0, 20.0
#: Room for a label above what passes a lane of the adaptive scale; its least height.
_PAD, _LOWEST = 20.0, 26.0
#: Width of a layer in which nothing but the residual happens, in those of others.
IDLE = 0.3
#: Most width of a layer, in pixels: a model of two fills half the panel, no band becomes a slab.
WIDEST = 240.0
#: A label needs this much of the root's mass at its node, and this much room, in pixels.
LABEL_FLOW, LINE, CHARACTER = 0.025, 14, 6.7
#: How far from its point a label's middle stands above, and its start beside.
ABOVE, BESIDE = 8, 10
#: Zoom factors at which further labels may come.
ZOOMS = (1.0, 1.5, 2.25, 3.4, 5.0, 7.6)


class Label(NamedTuple):
    """A node's label: its middle in pixels from the picture's top left corner, unzoomed.

    Attributes:
        spot: The node.
        x, y: Its point, which the label stands above; at the right edge beside.
        text: What it reads as.
        wide: Width of the text.
        beside: Whether it stands at the point's right.
        zoom: From which zoom on there is room for it.
    """

    spot: Spot
    x: float
    y: float
    text: str
    wide: float
    beside: bool = False
    zoom: float = 1.0

    def centre(self, zoom: float) -> tuple[float, float]:
        """The text's middle in a picture zoomed so far: points move apart, texts stay."""
        x, y = self.x * zoom, self.y * zoom
        return (x + BESIDE + self.wide / 2, y) if self.beside else (x, y - ABOVE)


@dataclass(frozen=True, slots=True)
class Places:
    """The picture's measures, in pixels.

    Attributes:
        lanes: (middle, height) of each position that has a lane, top to bottom.
        rows: Where each drawn row lies, from the left.
        low: The first of them.
        per_mass: How tall a mass of 1 is.
        width, height: Of all this.
        other: Top of the lane of the "other" link; None where it is not drawn.
    """

    lanes: dict[int, tuple[float, float]]
    rows: tuple[float, ...]
    low: int
    per_mass: float
    width: float
    height: float
    other: float | None = None

    def x(self, level: float) -> float:
        """Where a level (row, or row and a part) lies, from the left."""
        at = level - self.low
        whole = min(int(at), len(self.rows) - 1)
        if whole + 1 >= len(self.rows):
            return self.rows[-1]
        return self.rows[whole] + (at - whole) * (self.rows[whole + 1] - self.rows[whole])

    def y(self, spot: Spot) -> float:
        """The middle of a node, from the top; what ends lies beside the residual, not on it."""
        middle, tall = self.lanes[spot.pos]
        return middle + (0.34 * tall if spot.kind in ENDS else 0.0)


def place(drawing: Drawing, tokens: int) -> Places:
    """Measure the picture of ``drawing`` over a sequence of ``tokens`` tokens."""
    touched = sorted({spot.pos for spot in drawing.node_flow})
    first = touched[0] if drawing.up else 0  # upwards nothing comes before the root
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
    """How tall a mass of 1 is, and each lane, given the most that each holds."""
    if not adaptive:
        lane = min(HIGH, max(LOW, TALL / len(most)))
        # Upwards several states may together hold more than one: lanes never overlap.
        return FIXED, [max(lane, FIXED * mass + 2) for mass in most]
    room = max(TALL, LOW * len(most))
    low, high = LEAST, TALLEST
    for _ in range(30):
        middle = (low + high) / 2
        tall = sum(max(_LOWEST, middle * mass + _PAD) for mass in most)
        low, high = (middle, high) if tall <= room else (low, middle)
    return low, [max(_LOWEST, low * mass + _PAD) for mass in most]


def _rows(drawing: Drawing) -> tuple[float, ...]:
    """Where rows lie: what happens in a layer gives it its width."""
    busy = {link.first for link in drawing.links if link.main and link.kind != "residual"}
    layers = range(drawing.low, drawing.high)
    wide = [1.0 if layer in busy else IDLE for layer in layers]
    unit = min(WIDEST, max(24.0, ROOM / sum(wide)))
    places = [8.0]
    for part in wide:
        places.append(places[-1] + part * unit)
    return tuple(places)


def row_names(places: Places) -> list[int]:
    """Rows whose names have room: the edges, then every fifth, then whatever is left."""
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
    """Labels for nodes that carry enough, none over another: the largest first.

    The root's stands to its right, the others above their band. A lane that reads the same for a
    while is labelled once. Zoomed in there is room for more, and less is enough to have one.
    """
    wanted = [spot for spot in drawing.mass if spot.kind == "block" and _key(spot) in texts]
    wanted = [spot for spot in wanted if spot.depth > 0]  # a token's own text names its lane
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
    """Whether two labels cover each other when their points are ``zoom`` times as far apart."""
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
