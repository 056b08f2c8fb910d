"""Which links of a flow graph are drawn: pure arithmetic on a Graph's columns.

A graph at 64 tokens holds thousands of links; a picture a person can read holds a few hundred.

1. Heads that read the same source are summed, and an MLP becomes one link from the state it reads
   to the state it writes.
2. Main links: at each node the residual, and the MLP, a folded sink and the strongest attention
   sources as long as they carry at least ``threshold`` of the root's mass. How many sources and
   which threshold is the person's ``Rule``; the threshold rises until the main links fit their part
   of the limit. A thinner MLP, and thinner attention to the node's own position, is counted with
   the residual: it comes from the same state.
3. Runs of layers in which nothing but the residual is drawn become one link.
4. Quiet links: the strongest of the rest that enter a drawn node, until the limit is reached.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from analysis.results import Graph
from dash_app.figures.flow_parts import Part, Spot, merge
from dash_app.figures.flow_rule import USUAL, Rule

#: Links drawn at most, quiet ones and the one that sets the scale included.
LIMIT = 300
#: Of these, main ones.
MAIN_LIMIT = 200
#: A residual is followed down as long as it carries this much: in a run it costs one link only.
RESIDUAL_LEAST = 0.0015
#: Quiet attention sources that may come beside a node's main ones.
QUIET_SOURCES = 6
#: Positions that quiet links may add to those of the main ones, until there are so many.
LANES = 13
#: Quiet links carry at least this part of the root's mass.
QUIET_LEAST = 2e-4


class Drawn(NamedTuple):
    """One link of the picture.

    Attributes:
        source, target: Where the mass comes from (lower) and goes to (higher).
        kind: One of LINK_KINDS.
        flow: Part of the root's mass, by drawn links only.
        share: Part of what enters the target.
        main: Whether it is drawn at once, not only on hover.
        heads: (head, share) of an attention link, strongest first.
        along: Share of what is too thin to be drawn beside a residual and comes from the same state
            (an MLP, attention to its own position), counted with it.
        carried: How many such ways.
        first, last: The layers it spans.
    """

    source: Spot
    target: Spot
    kind: str
    flow: float
    share: float
    main: bool
    heads: tuple[tuple[int, float], ...] = ()
    along: float = 0.0
    carried: int = 0
    first: int = 0
    last: int = 0


@dataclass(frozen=True, slots=True)
class Drawing:
    """What is drawn of a graph.

    Attributes:
        root: The node all mass flows into, or the first of several.
        roots: All of them; they share the mass evenly.
        links: Main links first, then quiet ones.
        node_flow: Mass that passes each node by main links; 0 for nodes seen on hover only.
        shown: Root mass that main links carry down to the tokens.
        thin: How many links (heads summed) of the graph are not main.
        threshold: Mass below which a link is not main.
        soaked: Root mass that main links carry into folded sinks.
        short: Whether the rule asked for more links than a picture can hold.
    """

    root: Spot
    links: tuple[Drawn, ...]
    node_flow: dict[Spot, float]
    shown: float
    thin: int
    threshold: float
    soaked: float = 0.0
    short: bool = False
    roots: tuple[Spot, ...] = ()


class _Main(NamedTuple):
    """Main links as they are, and with runs of residual joined."""

    links: list[Drawn]
    flow: dict[Spot, float]
    drawn: list[Drawn]
    threshold: float

    @property
    def shown(self) -> float:
        """Root mass that they carry down to the tokens."""
        return sum(mass for spot, mass in self.flow.items() if spot[:2] == ("block", 0))

    @property
    def soaked(self) -> float:
        """Root mass that they carry into folded sinks."""
        return sum(mass for spot, mass in self.flow.items() if spot.kind == "sink")


def select(
    graph: Graph, rule: Rule = USUAL, limit: int = LIMIT, main_limit: int = MAIN_LIMIT
) -> Drawing:
    """Choose what to draw of ``graph``: fewer than ``limit`` links, ``main_limit`` of them main.

    Only of graphs that go down by shares: signed ones have ``flow_signed``.
    """
    if graph.method == "signed" or graph.direction == "up":
        raise ValueError(f"no picture by shares of a {graph.method} graph going {graph.direction}")
    parts = merge(graph)
    roots = tuple(Spot("block", graph.row, pos) for pos in graph.roots or (graph.position,))
    main, short = _main(parts, dict.fromkeys(roots, 1 / len(roots)), rule, main_limit)
    node_flow = _seen(main.drawn, main.flow, roots)
    room = limit - 1 - len(main.drawn)
    quiet = quiet_links(parts, main.links, main.flow, node_flow, room)
    total = sum(len(ways) for ways in parts.values())
    return Drawing(
        root=roots[0],
        links=(*main.drawn, *quiet),
        node_flow=node_flow | {link.source: 0.0 for link in quiet if link.source not in node_flow},
        shown=min(main.shown, 1.0),
        thin=total - sum(1 + link.carried for link in main.links),
        threshold=main.threshold,
        soaked=main.soaked,
        short=short,
        roots=roots,
    )


def _main(
    parts: dict[Spot, list[Part]], roots: dict[Spot, float], rule: Rule, most: int
) -> tuple[_Main, bool]:
    """The main links by the rule, and whether fewer than it asks for are drawn."""
    best = _Main([], dict(roots), [], 1.0)
    for tried, threshold in enumerate(rule.thresholds()):
        links, flow = walk(parts, roots, threshold, rule.at_each)
        found = _Main(links, flow, collapse(links, roots), threshold)
        fits = len(found.drawn) <= most
        if fits and rule.enough(found.shown + found.soaked):
            return found, tried > 0 and rule.name == "least"
        if rule.name == "mass":
            if not fits:
                break
            best = found
    return best, True


def walk(
    parts: dict[Spot, list[Part]], roots: dict[Spot, float], threshold: float, sources: int = 2
) -> tuple[list[Drawn], dict[Spot, float]]:
    """Main links from the roots, with their mass, down, and the mass each node gets by them."""
    flow: dict[Spot, float] = defaultdict(float, roots)
    links: list[Drawn] = []
    for target in sorted(parts, key=lambda spot: -spot.level):
        mass = flow.get(target, 0.0)
        if mass < RESIDUAL_LEAST:
            continue
        for part, along in _main_parts(parts[target], mass, threshold, sources):
            links.append(_link(part, target, mass, along, main=True))
            flow[part.source] += links[-1].flow
    return links, dict(flow)


def collapse(links: list[Drawn], roots: Collection[Spot]) -> list[Drawn]:
    """The same links without nodes at which nothing is drawn but the residual passing through."""
    drawn = list(links)
    entering, leaving = _both_ways(drawn)
    for spot in sorted(entering, key=lambda spot: -spot.level):
        if spot in roots or len(leaving[spot]) != 1:
            continue
        (above,) = leaving[spot]
        middle = spot.kind == "mid" and above.kind == "residual" and len(entering[spot]) > 0
        passing = len(entering[spot]) == 1 and entering[spot][0].kind == above.kind == "residual"
        if middle or passing:
            _join(spot, above, entering, leaving)
    return [link for ways in entering.values() for link in ways]


def quiet_links(
    parts: dict[Spot, list[Part]],
    main: list[Drawn],
    flow: dict[Spot, float],
    seen: dict[Spot, float],
    room: int,
) -> list[Drawn]:
    """The strongest ways into drawn nodes that are not main, at most ``room``."""
    taken = {(link.source, link.target, link.kind) for link in main}
    carrying = {(link.source, link.target) for link in main if link.along > 0}
    choices: list[Drawn] = []
    for target, ways in parts.items():
        at = _shown_at(target, seen)
        if at is None or flow.get(target, 0.0) <= 0:
            continue
        rest = [
            part
            for part in ways
            if (part.source, target, part.kind) not in taken
            and (part.source, target) not in carrying
        ]
        rest = sorted(rest, key=lambda part: -part.share)[:QUIET_SOURCES]
        choices += [
            _link(part, target, flow[target], [], main=False)._replace(target=at) for part in rest
        ]
    choices = [link for link in choices if link.flow >= QUIET_LEAST and link.source != link.target]
    lanes = _lanes(choices, seen)
    choices = [link for link in choices if link.source.pos in lanes]
    return sorted(choices, key=lambda link: -link.flow)[: max(room, 0)]


def _lanes(choices: list[Drawn], seen: dict[Spot, float]) -> set[int]:
    """Positions to draw: those of the main links, then those that most quiet mass comes from."""
    lanes = {spot.pos for spot in seen}
    mass: dict[int, float] = defaultdict(float)
    for link in choices:
        mass[link.source.pos] += link.flow
    others = sorted(mass.keys() - lanes, key=lambda pos: -mass[pos])
    return lanes | set(others[: max(LANES - len(lanes), 0)])


def _main_parts(
    ways: list[Part], mass: float, threshold: float, sources: int
) -> list[tuple[Part, list[Part]]]:
    """The main parts of a node, a residual with the thin parts that are counted with it."""
    attention = sorted((part for part in ways if part.kind == "attention"), key=lambda p: -p.share)
    mlps = [part for part in ways if part.kind == "mlp"]
    sinks = [part for part in ways if part.kind == "sink"]
    strongest = (*mlps, *sinks, *attention[:sources])
    strong = [part for part in strongest if mass * part.share >= threshold]
    chosen: list[tuple[Part, list[Part]]] = [(part, []) for part in strong]
    for part in (part for part in ways if part.kind == "residual"):
        along = [
            other
            for other in (*mlps, *attention)
            if other.source == part.source and other not in strong
        ]
        if mass * (part.share + sum(other.share for other in along)) >= RESIDUAL_LEAST:
            chosen.append((part, along))
    return chosen


def _link(part: Part, target: Spot, mass: float, along: list[Part], *, main: bool) -> Drawn:
    extra = sum(other.share for other in along)
    layer = target.depth - 1 if target.kind == "block" else target.depth
    return Drawn(
        source=part.source,
        target=target,
        kind=part.kind,
        flow=mass * (part.share + extra),
        share=part.share + extra,
        main=main,
        heads=part.heads,
        along=extra,
        carried=len(along),
        first=layer,
        last=layer,
    )


def _both_ways(
    links: list[Drawn],
) -> tuple[dict[Spot, list[Drawn]], dict[Spot, list[Drawn]]]:
    entering: dict[Spot, list[Drawn]] = defaultdict(list)
    leaving: dict[Spot, list[Drawn]] = defaultdict(list)
    for link in links:
        entering[link.target].append(link)
        leaving[link.source].append(link)
    return entering, leaving


def _join(
    spot: Spot,
    above: Drawn,
    entering: dict[Spot, list[Drawn]],
    leaving: dict[Spot, list[Drawn]],
) -> None:
    """Take ``spot`` out: what enters it goes on to where ``above`` goes."""
    entering[above.target].remove(above)
    for link in entering.pop(spot):
        longer = link._replace(
            target=above.target,
            share=link.share * above.share,
            along=max(link.along, above.along) if link.kind == "residual" else 0.0,
            last=max(link.last, above.last),
        )
        entering[above.target].append(longer)
        leaving[link.source].remove(link)
        leaving[link.source].append(longer)
    leaving.pop(spot)


def _seen(drawn: list[Drawn], flow: dict[Spot, float], roots: Iterable[Spot]) -> dict[Spot, float]:
    spots = {spot for link in drawn for spot in (link.source, link.target)}
    return {spot: flow[spot] for spot in spots.union(roots)}


def _shown_at(target: Spot, seen: dict[Spot, float]) -> Spot | None:
    """The drawn node that stands for ``target``: itself, or the block its middle was joined to."""
    if target in seen:
        return target
    above = Spot("block", target.depth + 1, target.pos)
    return above if target.kind == "mid" and above in seen else None
