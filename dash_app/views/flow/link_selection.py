"""Selects the links of a flow graph that are drawn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from analysis.flow_graph.options import FLOW_METHODS
from analysis.flow_graph.results import ENDS, Graph
from dash_app.views.flow.paths import (
    RESIDUAL_LEAST,
    Drawn,
    Part,
    Spot,
    collapse,
    drawn,
    flows,
    leaving,
    merge,
    walk,
    wholes,
)

#: A main link carries at least this part of the root's mass, unless the rule sets another limit.
LEAST = 0.004
#: The rules by mass allow any number of sources.
ANY = 10_000
#: Start, end and step of the search for the fewest links that carry enough.
_FROM, _TO, _STEP = 0.6, 1e-4, 0.85


@dataclass(frozen=True, slots=True)
class Rule:
    """The rule that makes a link a main one.

    Attributes:
        name: "sources": a number of the strongest attention sources at each node; "mass": the
            strongest links that together carry a part of the root's mass; "least": every link that
            carries at least a part of it.
        sources: The number, for "sources".
        mass: The part, for "mass", 0 to 1.
        least: The part, for "least", 0 to 1.
    """

    name: str = "sources"
    sources: int = 2
    mass: float = 0.8
    least: float = 0.02

    @property
    def at_each(self) -> int:
        """Most attention sources of a node that can be main."""
        return self.sources if self.name == "sources" else ANY

    def thresholds(self) -> Iterator[float]:
        """Masses below which a link is not main, in the order of trying.

        For "mass" the threshold falls until the links carry enough; for the other rules it rises
        until the links fit in the picture.
        """
        if self.name == "mass":
            threshold = _FROM
            while threshold > _TO:
                yield threshold
                threshold *= _STEP
            return
        threshold = self.least if self.name == "least" else LEAST
        while True:
            yield threshold
            threshold *= 1.15

    def enough(self, shown: float) -> bool:
        """Whether a picture that fits and carries ``shown`` ends the search."""
        return self.name != "mass" or shown >= self.mass


#: The default rule.
USUAL = Rule()


@dataclass(frozen=True, slots=True)
class Look:
    """The part of a graph that is drawn, and how.

    Attributes:
        first, last: The layers; None: from the bottom, to the top.
        heads: How heads that read the same source are joined to links.
        group_size: Number of query heads that share keys and values.
        adaptive: Whether lanes are as tall as the flow through them; else the scale is fixed.
    """

    first: int | None = None
    last: int | None = None
    heads: str = "sum"
    group_size: int = 1
    adaptive: bool = True


#: The default look.
PLAIN = Look()

#: Most links in a picture, with hover-only links and the "other" link.
LIMIT = 300
#: Most main links in a picture.
MAIN_LIMIT = 200
#: Most hover-only links of a node.
HOVER_SOURCES = 6
#: Hover-only links may add positions until there are this many.
LANES = 13
#: Upwards, thresholds refer to states of which the root is this much.
MUCH = 0.1
#: A hover-only link carries at least this part of the root's mass.
HOVER_LEAST = 2e-4


@dataclass(frozen=True, slots=True)
class Drawing:
    """The selected links and nodes of a graph.

    Attributes:
        roots: The nodes from which mass starts: the graph's own, or those at the edge of the drawn
            layers.
        links: Main links first, then hover-only links.
        node_flow: Mass through each node in main links; 0 for nodes shown on hover only.
        mass: Mass of each drawn node in all links: the part of the root's mass that passes it;
            upwards, the part of the node that comes from the root.
        other: The part of it that enters through no main link; roots and end nodes have none.
        shown: Downwards, the root's mass that main links carry through the drawn layers; upwards,
            the part of what all states at the upper edge have from the root.
        soaked: The root's mass that main links carry into folded sinks.
        whole: Mass at the upper edge of the drawn layers: 1 unless layers above are omitted; 1
            upwards.
        thin: Number of links in the drawn layers that are not main.
        threshold: Mass below which a link is not main.
        short: Whether the rule selects more links than a picture can show.
        low, high: The residual rows at the edges of the picture.
        up: The direction.
        look: How the picture is drawn.
    """

    roots: tuple[Spot, ...]
    links: tuple[Drawn, ...]
    node_flow: dict[Spot, float]
    mass: dict[Spot, float]
    other: dict[Spot, float]
    shown: float
    soaked: float
    whole: float
    thin: int
    threshold: float
    short: bool
    low: int
    high: int
    up: bool = False
    look: Look = field(default=PLAIN)

    @property
    def root(self) -> Spot:
        """The root, or the first of several."""
        return self.roots[0]

    @property
    def rest(self) -> float:
        """Mass of the "other" link: ``whole`` minus shown and soaked."""
        return max(self.whole - self.shown - self.soaked, 0.0)


class _Scene(NamedTuple):
    """The part of a graph in the drawn layers.

    ``unit`` is the mass that thresholds refer to: downwards the whole mass of the root. Upwards it
    is smaller, because a token may be only a hundredth of every state at the far edge.
    """

    ways: dict[Spot, list[Part]]
    starts: dict[Spot, float]
    low: int
    high: int
    up: bool
    whole: float
    unit: float

    def shown(self, flow: dict[Spot, float]) -> float:
        """Part of ``whole`` that reaches the far edge."""
        edge = ("block", self.high if self.up else self.low)
        arrived = sum(mass for spot, mass in flow.items() if spot[:2] == edge)
        return min(arrived / self.whole if self.up else arrived, 1.0)


class _Main(NamedTuple):
    """Main links of the graph, and the drawn ones, with runs of residual links joined."""

    links: list[Drawn]
    flow: dict[Spot, float]
    drawn: list[Drawn]
    threshold: float

    @property
    def soaked(self) -> float:
        """The root's mass that they carry into folded sinks."""
        return sum(mass for spot, mass in self.flow.items() if spot.kind == "sink")


def select(
    graph: Graph,
    rule: Rule = USUAL,
    look: Look = PLAIN,
    limit: int = LIMIT,
    main_limit: int = MAIN_LIMIT,
) -> Drawing:
    """Select fewer than ``limit`` links of ``graph``, at most ``main_limit`` of them main.

    The graph has shares; for a signed graph there is ``select_signed``.
    """
    if FLOW_METHODS[graph.method].signed:
        raise ValueError(f"a {graph.method} graph has no shares")
    scene = _scene(graph, look)
    main, short = _main(scene, rule, main_limit)
    roots = _followed(scene.starts)
    node_flow = _seen(main.drawn, main.flow, roots)
    hover = _hover_links(scene, main, node_flow, limit - 1 - len(main.drawn))
    mass = _masses(graph, scene, node_flow)
    far = [link.target if scene.up else link.source for link in hover]
    total = sum(len(ways) for ways in scene.ways.values())
    return Drawing(
        roots=tuple(roots),
        links=(*main.drawn, *hover),
        node_flow=node_flow | {spot: 0.0 for spot in far if spot not in node_flow},
        mass=mass,
        other=_others(scene, main.drawn, mass),
        shown=scene.shown(main.flow),
        soaked=main.soaked,
        whole=1.0 if scene.up else scene.whole,
        thin=total - sum(1 + link.carried for link in main.links),
        threshold=main.threshold,
        short=short,
        low=scene.low,
        high=scene.high,
        up=scene.up,
        look=look,
    )


def span(graph: Graph, look: Look) -> tuple[int, int]:
    """The residual rows to draw: those of the graph within the chosen layers."""
    up = graph.direction == "up"
    blocks = [spot.depth for spot in flows(graph) if spot.kind == "block"]
    bottom, top = (graph.row, max(blocks)) if up else (0, graph.row)
    high = min(max(top if look.last is None else look.last + 1, bottom + 1), top)
    low = max(min(bottom if look.first is None else look.first, high - 1), bottom)
    return low, high


def _scene(graph: Graph, look: Look) -> _Scene:
    up, (low, high) = graph.direction == "up", span(graph, look)
    into = merge(graph, look.heads, look.group_size)
    inside = {spot: ways for spot, ways in into.items() if low < spot.level <= high}
    starts = _starts(graph, low if up else high)
    known = wholes(graph)
    edge = sum(mass for spot, mass in known.items() if spot[:2] == ("block", high))
    whole = max(edge, 1e-30) if up else sum(starts.values())
    most = max((mass for spot, mass in known.items() if spot[:2] == ("block", high)), default=1.0)
    unit = min(max(most / MUCH, 1e-4), 1.0) if up else 1.0
    return _Scene(leaving(inside) if up else inside, starts, low, high, up, whole, unit)


def _starts(graph: Graph, row: int) -> dict[Spot, float]:
    """Mass at the row where the picture starts, of the roots or of the graph's nodes there."""
    if row == graph.row:
        roots = [Spot("block", row, pos) for pos in graph.roots or (graph.position,)]
        return dict.fromkeys(roots, 1.0 if graph.direction == "up" else 1 / len(roots))
    here = {spot: mass for spot, mass in flows(graph).items() if spot[:2] == ("block", row)}
    return {spot: mass for spot, mass in here.items() if mass > 0.0}


def _main(scene: _Scene, rule: Rule, most: int) -> tuple[_Main, bool]:
    """The main links by the rule, and whether the rule selects more than fit."""
    best = _Main([], dict(scene.starts), [], 1.0)
    for tried, given in enumerate(rule.thresholds()):
        threshold = given * (1.0 if rule.name == "least" else scene.unit)
        links, flow = walk(
            scene.ways, scene.starts, threshold, rule.at_each, up=scene.up, unit=scene.unit
        )
        found = _Main(links, flow, collapse(links, scene.starts, up=scene.up), threshold)
        fits = len(found.drawn) <= most
        reached = scene.shown(flow) if scene.up else scene.shown(flow) / scene.whole
        if fits and rule.enough(reached + found.soaked):
            return found, tried > 0 and rule.name == "least"
        if rule.name == "mass":
            if not fits:
                break
            best = found
    return best, True


def _masses(graph: Graph, scene: _Scene, seen: dict[Spot, float]) -> dict[Spot, float]:
    if not scene.up:
        return dict(seen)
    known = wholes(graph)
    return {spot: max(known.get(spot, 0.0), mass) for spot, mass in seen.items()}


def _others(scene: _Scene, links: Iterable[Drawn], mass: dict[Spot, float]) -> dict[Spot, float]:
    """Mass that enters each drawn node through no main link."""
    entered: dict[Spot, float] = defaultdict(float)
    for link in links:
        entered[link.target] += link.flow
    ends = set(scene.starts) if scene.up else {spot for spot in mass if spot.depth == scene.low
                                               and spot.kind == "block"}  # fmt: skip
    return {
        spot: max(held - entered[spot], 0.0)
        for spot, held in mass.items()
        if spot not in ends and spot.kind not in ENDS
    }


def _hover_links(scene: _Scene, main: _Main, seen: dict[Spot, float], room: int) -> list[Drawn]:
    """The strongest links of drawn nodes that are not main, at most ``room``."""
    taken = {link.key for link in main.links}
    carrying = {link.key[:2] for link in main.links if link.along > 0}
    choices: list[Drawn] = []
    for node, parts in scene.ways.items():
        mass = main.flow.get(node, 0.0)
        if shown_at(node, seen) is None or mass <= 0:
            continue
        rest = [part for part in parts if part.key not in taken and part.key[:2] not in carrying]
        for part in sorted(rest, key=lambda part: -part.share)[:HOVER_SOURCES]:
            link = drawn(part, mass, [], main=False)
            source, target = (shown_at(spot, seen) or spot for spot in link[:2])
            choices.append(link._replace(source=source, target=target))
    least = HOVER_LEAST * scene.unit
    choices = [link for link in choices if link.flow >= least and link.source != link.target]
    lanes = _lanes(choices, seen, up=scene.up)
    choices = [link for link in choices if _far(link, up=scene.up) in lanes]
    return sorted(choices, key=lambda link: -link.flow)[: max(room, 0)]


def _far(link: Drawn, *, up: bool) -> int:
    return link.target.pos if up else link.source.pos


def _lanes(choices: list[Drawn], seen: dict[Spot, float], *, up: bool) -> set[int]:
    """Positions to draw: those of the main links, then those with most mass in hover-only links."""
    lanes = {spot.pos for spot in seen}
    mass: dict[int, float] = defaultdict(float)
    for link in choices:
        mass[_far(link, up=up)] += link.flow
    others = sorted(mass.keys() - lanes, key=lambda pos: -mass[pos])
    return lanes | set(others[: max(LANES - len(lanes), 0)])


def _seen(links: list[Drawn], flow: dict[Spot, float], roots: Iterable[Spot]) -> dict[Spot, float]:
    # In the links' order, so that every server draws the nodes in the same order.
    spots = dict.fromkeys([spot for link in links for spot in (link.source, link.target)])
    return {spot: flow[spot] for spot in [*spots, *(root for root in roots if root not in spots)]}


def _followed(starts: dict[Spot, float]) -> list[Spot]:
    """The start nodes that carry enough mass to be drawn."""
    return sorted(spot for spot, mass in starts.items() if mass >= RESIDUAL_LEAST)


def shown_at(spot: Spot, seen: dict[Spot, float]) -> Spot | None:
    """The drawn node for ``spot``: itself, or the block output that its middle was joined to."""
    if spot in seen:
        return spot
    above = Spot("block", spot.depth + 1, spot.pos)
    return above if spot.kind == "mid" and above in seen else None
