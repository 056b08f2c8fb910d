"""A flow graph as links between nodes, and the walk that finds the main ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import NamedTuple

import numpy as np

from analysis.flow_graph.results import ENDS, LINK_KINDS, NODE_KINDS, Graph

#: Nodes in which mass ends before it reaches a token.


class Spot(NamedTuple):
    """A node of the graph: its kind, depth (row of a block output, else layer) and position."""

    kind: str
    depth: int
    pos: int

    @property
    def level(self) -> float:
        """Depth in rows; a node inside a layer lies shortly before the next row.

        Attention spans more of a layer than the MLP, because its bands cross lanes, while an MLP's
        band only needs enough room to be pointed at.
        """
        if self.kind == "block":
            return float(self.depth)
        return self.depth + (0.3 if self.kind in ENDS else 0.6)


class Part(NamedTuple):
    """A link of the graph, with its heads joined.

    Attributes:
        source, target: The nodes.
        kind: One of LINK_KINDS.
        share: Part of what enters the target.
        heads: (head, share) of attention, strongest first.
        group: Number among several attention links between the same nodes; -1 if heads are summed.
    """

    source: Spot
    target: Spot
    kind: str
    share: float
    heads: tuple[tuple[int, float], ...] = ()
    group: int = -1

    @property
    def key(self) -> tuple[Spot, Spot, str, int]:
        """Identifies the link."""
        return self.source, self.target, self.kind, self.group


def merge(graph: Graph, heads: str = "sum", group_size: int = 1) -> dict[Spot, list[Part]]:
    """The links into each node; an MLP is one link from the state it reads to the one it writes.

    Args:
        graph: A graph of shares.
        heads: How heads that read the same source are joined.
        group_size: Number of heads that share keys and values, for "group".
    """
    spots = _spots(graph)
    written = _written(graph, spots)
    shares: dict[tuple[int, int, str, int], float] = defaultdict(float)
    split: dict[tuple[int, int, str, int], list[tuple[int, float]]] = defaultdict(list)
    mlp_share: dict[int, float] = defaultdict(float)
    for source, target, kind, head, share in _rows(graph):
        if spots[source].kind == "mlp":
            mlp_share[source] += share
            continue
        if kind == "other":
            continue
        key = (source, target, kind, _group(head, heads, group_size))
        shares[key] += share
        if kind == "attention" and head >= 0:
            split[key].append((head, share))
    parts: dict[Spot, list[Part]] = defaultdict(list)
    for (source, target, kind, group), share in shares.items():
        if spots[target].kind != "mlp":
            by_head = sorted(split[source, target, kind, group], key=lambda part: -part[1])
            part = Part(spots[source], spots[target], kind, share, tuple(by_head), group)
        elif target in written:
            whole = share * mlp_share[target]
            part = Part(spots[source], spots[written[target]], "mlp", whole)
        else:
            continue
        parts[part.target].append(part)
    return dict(parts)


def leaving(parts: dict[Spot, list[Part]]) -> dict[Spot, list[Part]]:
    """The same links by the node that they leave."""
    found: dict[Spot, list[Part]] = defaultdict(list)
    for ways in parts.values():
        for part in ways:
            found[part.source].append(part)
    return dict(found)


def wholes(graph: Graph) -> dict[Spot, float]:
    """Each node's mass in all links of the graph; upwards, in all links of the model."""
    known = graph.node_whole if len(graph.node_whole) else graph.node_flow
    return dict(zip(_spots(graph), known.tolist(), strict=True))


def flows(graph: Graph) -> dict[Spot, float]:
    """Each node's mass in the graph's links."""
    return dict(zip(_spots(graph), graph.node_flow.tolist(), strict=True))


def _group(head: int, heads: str, group_size: int) -> int:
    if head < 0 or heads == "sum":
        return -1
    return head // group_size if heads == "group" else head


def _written(graph: Graph, spots: list[Spot]) -> dict[int, int]:
    """The node that each MLP writes to."""
    pairs = zip(graph.link_source.tolist(), graph.link_target.tolist(), strict=True)
    return {source: target for source, target in pairs if spots[source].kind == "mlp"}


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


#: A residual link is followed while it carries this much, because a run of them is one link.
RESIDUAL_LEAST = 0.0015


class Drawn(NamedTuple):
    """One link of the picture.

    Attributes:
        source, target: The lower and the upper node.
        kind: One of LINK_KINDS.
        flow: Part of the root's mass; upwards, part of the target's mass that comes from the root;
            in drawn links only.
        share: Part of what enters the target.
        main: Whether it is always drawn, not only on hover.
        heads: (head, share) of an attention link, strongest first.
        group: Number among several attention links between the same nodes.
        along: Share of links that are too thin to be drawn beside a residual link between the same
            states (an MLP, same-position attention) and count with it.
        carried: Number of such links.
        first, last: The layers that it spans.
    """

    source: Spot
    target: Spot
    kind: str
    flow: float
    share: float
    main: bool
    heads: tuple[tuple[int, float], ...] = ()
    group: int = -1
    along: float = 0.0
    carried: int = 0
    first: int = 0
    last: int = 0

    @property
    def key(self) -> tuple[Spot, Spot, str, int]:
        """Identifies the link."""
        return self.source, self.target, self.kind, self.group


def walk(
    ways: dict[Spot, list[Part]],
    starts: dict[Spot, float],
    threshold: float,
    sources: int = 2,
    *,
    up: bool = False,
    unit: float = 1.0,
) -> tuple[list[Drawn], dict[Spot, float]]:
    """Main links from the start nodes, with their mass, and each node's mass in them.

    Args:
        ways: The links into each node; upwards, the links out of it.
        starts: Mass of the start nodes.
        threshold: A link that carries less is not main.
        sources: Most attention links of a node that can be main.
        up: The direction.
        unit: The mass that ``RESIDUAL_LEAST`` refers to.
    """
    least = RESIDUAL_LEAST * unit
    flow: dict[Spot, float] = defaultdict(float, starts)
    links: list[Drawn] = []
    for node in sorted(ways, key=lambda spot: spot.level if up else -spot.level):
        mass = flow.get(node, 0.0)
        if mass < least:
            continue
        for part, along in _main_parts(ways[node], mass, threshold, sources, least):
            links.append(drawn(part, mass, along, main=True))
            flow[part.target if up else part.source] += links[-1].flow
    return links, dict(flow)


def _main_parts(
    ways: list[Part], mass: float, threshold: float, sources: int, least: float
) -> list[tuple[Part, list[Part]]]:
    """The main links of a node; a residual link with the thin links that count with it."""
    attention = sorted((part for part in ways if part.kind == "attention"), key=lambda p: -p.share)
    mlps = [part for part in ways if part.kind == "mlp"]
    ends = [part for part in ways if part.kind in ENDS and part.kind != "bias"]
    strongest = (*mlps, *ends, *attention[:sources])
    strong = [part for part in strongest if mass * part.share >= threshold]
    chosen: list[tuple[Part, list[Part]]] = [(part, []) for part in strong]
    for part in (part for part in ways if part.kind == "residual"):
        along = [
            other for other in (*mlps, *attention) if other[:2] == part[:2] and other not in strong
        ]
        if mass * (part.share + sum(other.share for other in along)) >= least:
            chosen.append((part, along))
    return chosen


def drawn(part: Part, mass: float, along: list[Part], *, main: bool) -> Drawn:
    """A link that carries its share of ``mass``."""
    extra = sum(other.share for other in along)
    target = part.target
    layer = target.depth - 1 if target.kind == "block" else target.depth
    return Drawn(
        source=part.source,
        target=target,
        kind=part.kind,
        flow=mass * (part.share + extra),
        share=part.share + extra,
        main=main,
        heads=part.heads,
        group=part.group,
        along=extra,
        carried=len(along),
        first=layer,
        last=layer,
    )


def collapse(links: list[Drawn], roots: Collection[Spot], *, up: bool = False) -> list[Drawn]:
    """The same links without nodes that only a residual link passes through."""
    entering, leaving = _both_ways(links)
    for spot in sorted(entering, key=lambda spot: -spot.level):
        if spot in roots or len(leaving[spot]) != 1:
            continue
        (above,) = leaving[spot]
        middle = spot.kind == "mid" and above.kind == "residual" and len(entering[spot]) > 0
        passing = len(entering[spot]) == 1 and entering[spot][0].kind == above.kind == "residual"
        if middle or passing:
            _join(spot, above, entering, leaving, up=up)
    return [link for ways in entering.values() for link in ways]


_Ways = dict[Spot, list[Drawn]]


def _both_ways(links: list[Drawn]) -> tuple[_Ways, _Ways]:
    entering: _Ways = defaultdict(list)
    leaving: _Ways = defaultdict(list)
    for link in links:
        entering[link.target].append(link)
        leaving[link.source].append(link)
    return entering, leaving


def _join(spot: Spot, above: Drawn, entering: _Ways, leaving: _Ways, *, up: bool) -> None:
    """Remove ``spot``: the links into it continue to the target of ``above``."""
    entering[above.target].remove(above)
    for link in entering.pop(spot):
        longer = link._replace(
            target=above.target,
            # Downwards the mass stays the same; upwards each step keeps only a share of it.
            flow=link.flow * (above.share if up else 1.0),
            share=link.share * above.share,
            along=max(link.along, above.along) if link.kind == "residual" else 0.0,
            last=max(link.last, above.last),
        )
        entering[above.target].append(longer)
        leaving[link.source].remove(link)
        leaving[link.source].append(longer)
    leaving.pop(spot)
