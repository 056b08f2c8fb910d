"""Main links of a flow graph: followed node by node, and runs of residual joined.

Downwards each node's ways in are looked at, from the root to the tokens; upwards each node's ways
out, from the root to the last row. What is left out at a node stays known: its "other" part.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import NamedTuple

from dash_app.figures.flow_parts import Part, Spot

#: A residual is followed on as long as it carries this much: in a run it costs one link only.
RESIDUAL_LEAST = 0.0015


class Drawn(NamedTuple):
    """One link of the picture.

    Attributes:
        source, target: Where the mass comes from (lower) and goes to (higher).
        kind: One of LINK_KINDS.
        flow: Part of the root's mass; upwards part of the target's mass that comes from the root;
            by drawn links only.
        share: Part of what enters the target.
        main: Whether it is drawn at once, not only on hover.
        heads: (head, share) of an attention link, strongest first.
        group: Which of several attention links between the same nodes.
        along: Share of what is too thin to be drawn beside a residual and joins the same states
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
    group: int = -1
    along: float = 0.0
    carried: int = 0
    first: int = 0
    last: int = 0

    @property
    def key(self) -> tuple[Spot, Spot, str, int]:
        """What tells it from every other link."""
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
    """Main links from the starts, with their mass, and the mass that each node gets by them.

    Args:
        ways: The ways into each node; upwards the ways out.
        starts: Mass to begin with.
        threshold: Links that carry less are not main.
        sources: Attention links of a node that may be.
        up: The direction.
        unit: What a residual must carry to be followed, in ``RESIDUAL_LEAST``.
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
    """The main ways of a node, a residual with the thin ones that are counted with it."""
    attention = sorted((part for part in ways if part.kind == "attention"), key=lambda p: -p.share)
    mlps = [part for part in ways if part.kind == "mlp"]
    sinks = [part for part in ways if part.kind == "sink"]
    strongest = (*mlps, *sinks, *attention[:sources])
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
    """A way as a link that starts from ``mass``."""
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
    """The same links without nodes at which nothing is drawn but the residual passing through."""
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
    """Take ``spot`` out: what enters it goes on to where ``above`` goes."""
    entering[above.target].remove(above)
    for link in entering.pop(spot):
        longer = link._replace(
            target=above.target,
            # Downwards a link carries what reaches the root either way; upwards it thins.
            flow=link.flow * (above.share if up else 1.0),
            share=link.share * above.share,
            along=max(link.along, above.along) if link.kind == "residual" else 0.0,
            last=max(link.last, above.last),
        )
        entering[above.target].append(longer)
        leaving[link.source].remove(link)
        leaving[link.source].append(longer)
    leaving.pop(spot)
