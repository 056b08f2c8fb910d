"""Which links of a flow graph are drawn: the rule, and its application."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from analysis.flow_graph.results import Graph
from dash_app.views.flow.paths import (
    ENDS,
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

#: Main links carry at least this part of the root's mass, unless the rule says otherwise.
LEAST = 0.004
#: The rules that go by mass take any number of sources.
ANY = 10_000
#: Where the search for the fewest links that carry enough begins and ends, and its step.
_FROM, _TO, _STEP = 0.6, 1e-4, 0.85


@dataclass(frozen=True, slots=True)
class Rule:
    """What makes a link a main one.

    Attributes:
        name: "sources": at each node the strongest attention sources, so many; "mass": the
            strongest links that together carry so much of the root's mass; "least": every link
            that carries so much of it.
        sources: For "sources".
        mass: For "mass", 0 to 1.
        least: For "least", 0 to 1.
    """

    name: str = "sources"
    sources: int = 2
    mass: float = 0.8
    least: float = 0.02

    @property
    def at_each(self) -> int:
        """How many attention sources of a node may be main."""
        return self.sources if self.name == "sources" else ANY

    def thresholds(self) -> Iterator[float]:
        """Masses below which a link is not main, in the order in which they are tried.

        "mass" lets more in from try to try until enough is carried; the others let fewer in until
        the picture can hold them.
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
        """Whether the search may stop at a picture that fits and carries ``shown``."""
        return self.name != "mass" or shown >= self.mass


#: The rule until a person chooses one.
USUAL = Rule()


@dataclass(frozen=True, slots=True)
class Look:
    """Which part of a graph is drawn, and how.

    Attributes:
        first, last: The layers; None: from the bottom, to the top.
        heads: Which heads that read the same source are one link.
        group_size: Query heads that share keys and values.
        adaptive: Whether lanes are as tall as what passes them; else the whole flow is as tall in
            every picture.
    """

    first: int | None = None
    last: int | None = None
    heads: str = "sum"
    group_size: int = 1
    adaptive: bool = True


#: The look until a person chooses another.
PLAIN = Look()

#: Links drawn at most, quiet ones and the "other" link included.
LIMIT = 300
#: Of these, main ones.
MAIN_LIMIT = 200
#: Quiet attention links that may come beside a node's main ones.
QUIET_SOURCES = 6
#: Positions that quiet links may add to those of the main ones, until there are so many.
LANES = 13
#: Upwards the thinnest links drawn are meant for states of which the root is so much.
MUCH = 0.1
#: Quiet links carry at least this part of the root's mass.
QUIET_LEAST = 2e-4


@dataclass(frozen=True, slots=True)
class Drawing:
    """What is drawn of a graph.

    Attributes:
        roots: The nodes that mass starts from: the graph's own, or those at the edge of the layers
            that are drawn.
        links: Main links first, then quiet ones.
        node_flow: Mass that passes each node by main links; 0 for nodes seen on hover only.
        mass: What each drawn node holds by all links: of the root's mass as much as passes;
            upwards the part of its own that comes from the root.
        other: What of it enters by no main link; nothing for roots and where drawing ends.
        shown: Downwards root mass that main links carry through the drawn layers; upwards the
            part of what all states at the upper edge have from the root.
        soaked: Root mass that main links carry into folded sinks.
        whole: Mass at the drawn layers' upper edge: 1 unless layers above are left out. Upwards 1.
        thin: How many ways of the drawn layers are not main.
        threshold: Mass below which a link is not main.
        short: Whether the rule asked for more links than a picture can hold.
        low, high: Residual rows that are drawn.
        up: The direction.
        look: How.
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
        """What is in the "other" link: downwards ``whole`` less shown and soaked."""
        return max(self.whole - self.shown - self.soaked, 0.0)


class _Scene(NamedTuple):
    """The part of a graph that is looked at.

    ``unit`` is what is much: downwards all of the root's mass. Upwards a token may be a hundredth
    of every state at the far edge, and that is what the picture is about.
    """

    ways: dict[Spot, list[Part]]
    starts: dict[Spot, float]
    low: int
    high: int
    up: bool
    whole: float
    unit: float

    def shown(self, flow: dict[Spot, float]) -> float:
        """The part of ``whole`` that reaches the far edge."""
        edge = ("block", self.high if self.up else self.low)
        arrived = sum(mass for spot, mass in flow.items() if spot[:2] == edge)
        return min(arrived / self.whole if self.up else arrived, 1.0)


class _Main(NamedTuple):
    """Main links as they are, and with runs of residual joined."""

    links: list[Drawn]
    flow: dict[Spot, float]
    drawn: list[Drawn]
    threshold: float

    @property
    def soaked(self) -> float:
        """Root mass that they carry into folded sinks."""
        return sum(mass for spot, mass in self.flow.items() if spot.kind == "sink")


def select(
    graph: Graph,
    rule: Rule = USUAL,
    look: Look = PLAIN,
    limit: int = LIMIT,
    main_limit: int = MAIN_LIMIT,
) -> Drawing:
    """Choose what to draw of ``graph``: fewer than ``limit`` links, ``main_limit`` of them main.

    Only of graphs by shares: signed ones have ``flow_signed_select``.
    """
    if graph.method == "signed":
        raise ValueError("a signed graph has no shares")
    scene = _scene(graph, look)
    main, short = _main(scene, rule, main_limit)
    roots = _followed(scene.starts)
    node_flow = _seen(main.drawn, main.flow, roots)
    quiet = _quiet(scene, main, node_flow, limit - 1 - len(main.drawn))
    mass = _masses(graph, scene, node_flow)
    far = [link.target if scene.up else link.source for link in quiet]
    total = sum(len(ways) for ways in scene.ways.values())
    return Drawing(
        roots=tuple(roots),
        links=(*main.drawn, *quiet),
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
    """The residual rows to draw: the graph's own, less what the chosen layers leave out."""
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
    """Mass at the row that drawing starts from: the roots', or what the graph has there."""
    if row == graph.row:
        roots = [Spot("block", row, pos) for pos in graph.roots or (graph.position,)]
        return dict.fromkeys(roots, 1.0 if graph.direction == "up" else 1 / len(roots))
    here = {spot: mass for spot, mass in flows(graph).items() if spot[:2] == ("block", row)}
    return {spot: mass for spot, mass in here.items() if mass > 0.0}


def _main(scene: _Scene, rule: Rule, most: int) -> tuple[_Main, bool]:
    """The main links by the rule, and whether fewer than it asks for are drawn."""
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
    """What enters each drawn node by no main link."""
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


def _quiet(scene: _Scene, main: _Main, seen: dict[Spot, float], room: int) -> list[Drawn]:
    """The strongest ways of drawn nodes that are not main, at most ``room``."""
    taken = {link.key for link in main.links}
    carrying = {link.key[:2] for link in main.links if link.along > 0}
    choices: list[Drawn] = []
    for node, parts in scene.ways.items():
        mass = main.flow.get(node, 0.0)
        if shown_at(node, seen) is None or mass <= 0:
            continue
        rest = [part for part in parts if part.key not in taken and part.key[:2] not in carrying]
        for part in sorted(rest, key=lambda part: -part.share)[:QUIET_SOURCES]:
            link = drawn(part, mass, [], main=False)
            source, target = (shown_at(spot, seen) or spot for spot in link[:2])
            choices.append(link._replace(source=source, target=target))
    least = QUIET_LEAST * scene.unit
    choices = [link for link in choices if link.flow >= least and link.source != link.target]
    lanes = _lanes(choices, seen, up=scene.up)
    choices = [link for link in choices if _far(link, up=scene.up) in lanes]
    return sorted(choices, key=lambda link: -link.flow)[: max(room, 0)]


def _far(link: Drawn, *, up: bool) -> int:
    return link.target.pos if up else link.source.pos


def _lanes(choices: list[Drawn], seen: dict[Spot, float], *, up: bool) -> set[int]:
    """Positions to draw: those of the main links, then those that most quiet mass joins."""
    lanes = {spot.pos for spot in seen}
    mass: dict[int, float] = defaultdict(float)
    for link in choices:
        mass[_far(link, up=up)] += link.flow
    others = sorted(mass.keys() - lanes, key=lambda pos: -mass[pos])
    return lanes | set(others[: max(LANES - len(lanes), 0)])


def _seen(links: list[Drawn], flow: dict[Spot, float], roots: Iterable[Spot]) -> dict[Spot, float]:
    spots = {spot for link in links for spot in (link.source, link.target)}
    return {spot: flow[spot] for spot in spots.union(roots)}


def _followed(starts: dict[Spot, float]) -> list[Spot]:
    """The starts that carry enough to be followed: those that a picture has."""
    return sorted(spot for spot, mass in starts.items() if mass >= RESIDUAL_LEAST)


def shown_at(spot: Spot, seen: dict[Spot, float]) -> Spot | None:
    """The drawn node that stands for ``spot``: itself, or the block its middle was joined to."""
    if spot in seen:
        return spot
    above = Spot("block", spot.depth + 1, spot.pos)
    return above if spot.kind == "mid" and above in seen else None
