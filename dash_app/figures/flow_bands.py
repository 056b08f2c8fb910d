"""The bands of a flow picture: how links are stacked at the nodes that they join.

A node is as tall as its mass. What enters it is stacked from its top: links from earlier tokens,
then its own residual and MLP, then what comes on hover, and below them the part that no link
carries. What leaves it is stacked from the top too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from dash_app.figures.flow_parts import Spot
from dash_app.figures.flow_place import Places
from dash_app.figures.flow_select import Drawing
from dash_app.figures.flow_walk import Drawn

#: Half the width of a node, and the least width of a band that crosses lanes, in pixels.
HALF, THINNEST = 2.5, 0.7
_ORDER = {"residual": 0, "attention": 1, "mlp": 2}


class Band(NamedTuple):
    """A link as it is drawn: its middle line from left to right, and its width, in pixels.

    A ``ribbon`` is so wide from top to bottom. A line is so wide across itself, which shows a thin
    band that crosses lanes steeply as it is; one as wide as it is long would curl.
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
        # Upwards a state sends more than it holds: its part of every state that reads it.
        squeeze = min(1.0, tall / (main * places.per_mass)) if main > 0.0 else 1.0
        top = places.y(spot) - tall / 2
        bottom = top + tall
        for number in sorted(numbers, key=lambda number: order(drawing.links[number])):
            wide = drawing.links[number].flow * places.per_mass * squeeze
            middles[number] = min(top + wide / 2, bottom)
            top += wide
    return middles


def other_outline(drawing: Drawing, places: Places) -> list[tuple[float, float]]:
    """The lower edge of the "other" link: as tall, at each depth, as what was left out above it.

    Points (x, height) from right to left, in pixels.
    """
    tall, points = 0.0, [(places.x(drawing.high), 0.0)]
    for spot, part in sorted(drawing.other.items(), key=lambda item: -item[0].level):
        x = places.x(spot.level)
        if points[-1][0] > x:
            points.append((x, tall))
        tall += part * places.per_mass
        points.append((x, tall))
    # Rounding, and starts too small to be drawn.
    points.append((places.x(drawing.low), drawing.rest * places.per_mass))
    return points


def covered(drawing: Drawing, links: Iterable[Drawn]) -> dict[Spot, float]:
    """The part of each node's mass that main links bring."""
    brought: dict[Spot, float] = defaultdict(float)
    for link in links:
        if link.main:
            brought[link.target] += link.flow
    return {spot: min(brought[spot], mass) for spot, mass in drawing.mass.items()}
