"""Which links of a flow graph are drawn: pure arithmetic on a Graph's columns.

A graph at 64 tokens holds thousands of links; a picture a person can read holds a few hundred.

1. Heads that read the same source are summed, and an MLP becomes one link from the state it reads
   to the state it writes.
2. Main links: at each node the residual, and the MLP and the two strongest attention sources as
   long as they carry at least ``threshold`` of the root's mass. The threshold is the smallest for
   which the main links fit their part of the limit. A thinner MLP, and thinner attention to the
   node's own position, is counted with the residual: it comes from the same state.
3. Runs of layers in which nothing but the residual is drawn become one link.
4. Quiet links: the strongest of the rest that enter a drawn node, until the limit is reached.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from analysis.results import LINK_KINDS, NODE_KINDS, Graph

#: Links drawn at most, quiet ones and the one that sets the scale included.
LIMIT = 300
#: Of these, main ones.
MAIN_LIMIT = 200
#: Main links carry at least this part of the root's mass.
LEAST = 0.004
#: A residual is followed down as long as it carries this much: in a run it costs one link only.
RESIDUAL_LEAST = 0.0015
#: Attention sources at a node that are main, and quiet ones that may come beside them.
SOURCES, QUIET_SOURCES = 2, 6
#: Positions that quiet links may add to those of the main ones, until there are so many.
LANES = 13
#: Quiet links carry at least this part of the root's mass.
QUIET_LEAST = 2e-4


class Spot(NamedTuple):
    """Where a node lies: its kind, depth (row of a block, layer of the others) and position."""

    kind: str
    depth: int
    pos: int

    @property
    def level(self) -> float:
        """Depth in rows: a block at its row, what is inside a layer shortly before the next.

        Attention spans most of a layer so that its bands have room to cross lanes.
        """
        return float(self.depth) if self.kind == "block" else self.depth + 0.78


class Part(NamedTuple):
    """One way into a node, heads summed."""

    source: Spot
    kind: str
    share: float
    heads: tuple[tuple[int, float], ...]


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
        root: The node all mass flows into.
        links: Main links first, then quiet ones.
        node_flow: Mass that passes each node by main links; 0 for nodes seen on hover only.
        shown: Root mass that main links carry down to the tokens.
        thin: How many links (heads summed) of the graph are not main.
        threshold: Mass below which a link is not main.
    """

    root: Spot
    links: tuple[Drawn, ...]
    node_flow: dict[Spot, float]
    shown: float
    thin: int
    threshold: float


def select(
    graph: Graph, sources: int = SOURCES, limit: int = LIMIT, main_limit: int = MAIN_LIMIT
) -> Drawing:
    """Choose what to draw of ``graph``: fewer than ``limit`` links, ``main_limit`` of them main."""
    parts = merge(graph)
    root = Spot("block", graph.row, graph.position)
    threshold = LEAST
    links, flow = walk(parts, root, threshold, sources)
    drawn = collapse(links, root)
    while len(drawn) > main_limit:
        threshold *= 1.15
        links, flow = walk(parts, root, threshold, sources)
        drawn = collapse(links, root)
    node_flow = _seen(drawn, flow, root)
    room = min(limit - 1 - len(drawn), limit)
    quiet = quiet_links(parts, links, flow, node_flow, room)
    total = sum(len(ways) for ways in parts.values())
    shown = sum(mass for spot, mass in flow.items() if spot.kind == "block" and spot.depth == 0)
    return Drawing(
        root,
        (*drawn, *quiet),
        node_flow | {link.source: 0.0 for link in quiet if link.source not in node_flow},
        min(shown, 1.0),
        total - sum(1 + link.carried for link in links),
        threshold,
    )


def merge(graph: Graph) -> dict[Spot, list[Part]]:
    """The ways into each node, heads summed, each MLP one link from its reader to its writer."""
    spots = _spots(graph)
    written = {
        source: target
        for source, target in zip(
            graph.link_source.tolist(), graph.link_target.tolist(), strict=True
        )
        if spots[source].kind == "mlp"
    }
    shares: dict[tuple[int, int, str], float] = defaultdict(float)
    heads: dict[tuple[int, int, str], list[tuple[int, float]]] = defaultdict(list)
    mlp_share: dict[int, float] = defaultdict(float)
    for source, target, kind, head, share in _rows(graph):
        if spots[source].kind == "mlp":
            mlp_share[source] += share
            continue
        key = (source, target, kind)
        shares[key] += share
        if kind == "attention" and head >= 0:
            heads[key].append((head, share))
    parts: dict[Spot, list[Part]] = defaultdict(list)
    for (source, target, kind), share in shares.items():
        if spots[target].kind != "mlp":
            split = tuple(sorted(heads[source, target, kind], key=lambda part: -part[1]))
            parts[spots[target]].append(Part(spots[source], kind, share, split))
        elif target in written:
            whole = share * mlp_share[target]
            parts[spots[written[target]]].append(Part(spots[source], "mlp", whole, ()))
    return dict(parts)


def walk(
    parts: dict[Spot, list[Part]], root: Spot, threshold: float, sources: int = SOURCES
) -> tuple[list[Drawn], dict[Spot, float]]:
    """Main links from the root down, and the mass that each node gets by them."""
    flow: dict[Spot, float] = defaultdict(float, {root: 1.0})
    links: list[Drawn] = []
    for target in sorted(parts, key=lambda spot: -spot.level):
        mass = flow.get(target, 0.0)
        if mass < RESIDUAL_LEAST:
            continue
        for part, along in _main_parts(parts[target], mass, threshold, sources):
            links.append(_link(part, target, mass, along, main=True))
            flow[part.source] += links[-1].flow
    return links, dict(flow)


def collapse(links: list[Drawn], root: Spot) -> list[Drawn]:
    """The same links without nodes at which nothing is drawn but the residual passing through."""
    drawn = list(links)
    entering, leaving = _both_ways(drawn)
    for spot in sorted(entering, key=lambda spot: -spot.level):
        if spot == root or len(leaving[spot]) != 1:
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


def _spots(graph: Graph) -> list[Spot]:
    return [
        Spot(NODE_KINDS[kind], depth, pos)
        for kind, depth, pos in zip(
            graph.node_kind.tolist(),
            graph.node_depth.tolist(),
            graph.node_pos.tolist(),
            strict=True,
        )
    ]


def _rows(graph: Graph) -> Iterable[tuple[int, int, str, int, float]]:
    kinds = [LINK_KINDS[kind] for kind in graph.link_kind.tolist()]
    return zip(
        graph.link_source.tolist(),
        graph.link_target.tolist(),
        kinds,
        graph.link_head.tolist(),
        np.nan_to_num(graph.link_share).tolist(),
        strict=True,
    )


def _main_parts(
    ways: list[Part], mass: float, threshold: float, sources: int
) -> list[tuple[Part, list[Part]]]:
    """The main parts of a node, a residual with the thin parts that are counted with it."""
    attention = sorted((part for part in ways if part.kind == "attention"), key=lambda p: -p.share)
    mlps = [part for part in ways if part.kind == "mlp"]
    strong = [part for part in (*mlps, *attention[:sources]) if mass * part.share >= threshold]
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


def _seen(drawn: list[Drawn], flow: dict[Spot, float], root: Spot) -> dict[Spot, float]:
    spots = {spot for link in drawn for spot in (link.source, link.target)}
    return {spot: flow[spot] for spot in spots | {root}}


def _shown_at(target: Spot, seen: dict[Spot, float]) -> Spot | None:
    """The drawn node that stands for ``target``: itself, or the block its middle was joined to."""
    if target in seen:
        return target
    above = Spot("block", target.depth + 1, target.pos)
    return above if target.kind == "mid" and above in seen else None
