"""Where the nodes and labels of a flow picture lie, in pixels: columns are tokens, height is depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from dash_app.figures.flow_select import Drawing, Spot
from dash_app.figures.labels import shorten, width

#: Room that a panel of the page has, in pixels.
ROOM = 1100
#: Up to so many tokens all have a column; of more, only those that main links touch.
ALL_COLUMNS = 16
NARROW, WIDE = 62, 150
#: A label needs this much of the root's mass at its node, and this much room, in pixels.
LABEL_FLOW, LINE, CHARACTER = 0.03, 15, 6.9


class Label(NamedTuple):
    """A node's label: left edge and middle in pixels from the plot's top left corner."""

    spot: Spot
    x: float
    y: float
    text: str
    wide: float


@dataclass(frozen=True, slots=True)
class Places:
    """The picture's measures, in pixels.

    Attributes:
        positions: Positions that have a column, left to right.
        column: Width of one.
        step: Height of one row.
        top_row: The root's row.
        inner_width, inner_height: The plot area.
        margin: Around it.
        root_width: How wide the whole mass is.
        scale_value: The value of an unseen link that makes plotly draw the root so wide.
    """

    positions: tuple[int, ...]
    column: float
    step: float
    top_row: int
    inner_width: float
    inner_height: float
    margin: dict[str, int]
    root_width: float
    scale_value: float

    @property
    def width(self) -> int:
        """Of the whole figure."""
        return round(self.inner_width + self.margin["l"] + self.margin["r"])

    @property
    def height(self) -> int:
        """Of the whole figure."""
        return round(self.inner_height + self.margin["t"] + self.margin["b"])

    @property
    def bottom(self) -> float:
        """Where the embedding row lies."""
        return self.y(0)

    def x(self, position: int) -> float:
        """The middle of a position's column."""
        return (self.positions.index(position) + 0.5) * self.column

    def y(self, level: float) -> float:
        """The height of a level (row, or row and a half), from the top."""
        return 12 + (self.top_row - level) * self.step

    def fraction(self, spot: Spot) -> tuple[float, float]:
        """Node x and y for a vertical sankey.

        Plotly takes x along the flow (here downwards) but scales it by the plot's width, and y
        across it by the height; so both are given in the other one's measure.
        """
        down, across = self.y(spot.level), self.x(spot.pos)
        return down / self.inner_width, across / self.inner_height


def place(drawing: Drawing, tokens: int) -> Places:
    """Measure the picture of ``drawing`` over a sequence of ``tokens`` tokens."""
    main = {spot.pos for spot, flow in drawing.node_flow.items() if flow > 0}
    every = {spot.pos for spot in drawing.node_flow}
    few = tokens <= ALL_COLUMNS
    positions = tuple(range(max(every) + 1)) if few else tuple(sorted(every | main))
    column = min(WIDE, max(NARROW, ROOM / len(positions)))
    top_row = drawing.root.depth
    step = min(40.0, max(21.0, 660 / max(top_row, 1)))
    inner_width = column * len(positions)
    root_width = min(0.6 * column, 72.0)
    return Places(
        positions,
        column,
        step,
        top_row,
        inner_width,
        top_row * step + 24,
        {"l": 92, "r": 24, "t": 12, "b": 46, "pad": 0},
        root_width,
        max(inner_width / root_width - 1, 0.01),
    )


def place_labels(
    drawing: Drawing, places: Places, texts: dict[tuple[int, int], str]
) -> list[Label]:
    """Labels for nodes that carry enough, where the reading changes, none over another.

    The root's always comes; the others by how much passes their node.
    """
    wanted = [
        spot
        for spot, flow in drawing.node_flow.items()
        if spot.kind == "block" and flow >= LABEL_FLOW and spot.depth > 0 and _key(spot) in texts
    ]
    wanted.sort(key=lambda spot: (spot != drawing.root, -drawing.node_flow[spot]))
    placed: list[Label] = []
    for spot in wanted:
        label = _label(spot, drawing, places, texts)
        if label and not any(_clash(label, other) for other in placed):
            placed.append(label)
    return placed


def _key(spot: Spot) -> tuple[int, int]:
    return spot.depth, spot.pos


def _label(
    spot: Spot, drawing: Drawing, places: Places, texts: dict[tuple[int, int], str]
) -> Label | None:
    half = max(drawing.node_flow[spot] * places.root_width / 2, 2.0)
    room = int((places.column - half - places.column / 10) / CHARACTER)
    room = min(room, int((places.column / 2 - half + places.column * 0.3) / CHARACTER))
    text = texts[_key(spot)]
    if width(text) > room:
        text = shorten(text, room) if "&" not in text else ""
    if room < 3 or not text:
        return None
    return Label(
        spot, places.x(spot.pos) + half + 4, places.y(spot.level), text, width(text) * CHARACTER
    )


def _clash(label: Label, other: Label) -> bool:
    same = label.spot.pos == other.spot.pos and label.text == other.text
    if same and abs(label.y - other.y) < 4 * LINE:
        return True
    across = label.x < other.x + other.wide + 4 and other.x < label.x + label.wide + 4
    return across and abs(label.y - other.y) < LINE
