"""The flow picture: selected links, positions and captions."""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from plotly.io.json import to_json_plotly

from analysis.flow_graph.results import NODE_KINDS, Graph
from dash_app.page.token_labels import percent
from dash_app.views.flow.captions import caption
from dash_app.views.flow.link_selection import LIMIT, Look, Rule, select
from dash_app.views.flow.paths import Spot, collapse, leaving, merge, walk
from dash_app.views.flow.picture import bands, other_outline, picture
from dash_app.views.flow.placement import ZOOMS, overlap, place, place_labels
from tests.support import synthetic

SIZES = [(2, 3), (12, 8), (30, 8), (12, 16), (30, 16)]
GRAPHS = {size: synthetic.graph(*size) for size in SIZES}


@pytest.fixture(params=SIZES, ids=str)
def graph(request: pytest.FixtureRequest) -> Graph:
    return GRAPHS[request.param]


def drawn_of(graph: Graph, **options: Any) -> Any:
    tokens = int(graph.node_pos.max()) + 1
    layers = int(graph.node_depth.max())
    run, grid = synthetic.run_result(layers, tokens), synthetic.grid(layers, tokens)
    return picture(graph, run, grid, **options)


def test_at_most_300_links_and_main_ones_first(graph: Graph) -> None:
    drawing = select(graph)
    kinds = [link.main for link in drawing.links]
    assert kinds == sorted(kinds, reverse=True)
    made = drawn_of(graph)
    assert len(made["links"]) == len(drawing.links) == len(made["table"]["rows"])
    assert len(made["links"]) + 1 <= LIMIT == 300  # the "other" link


def test_merging_keeps_every_share(graph: Graph) -> None:
    for ways in merge(graph).values():
        assert sum(part.share for part in ways) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("heads", ["group", "each"])
def test_heads_apart_sum_to_heads_together(graph: Graph, heads: Any) -> None:
    """Two heads: as one group they are one link, each alone they are two."""
    together, apart = merge(graph), merge(graph, heads, 2)
    for target, ways in apart.items():
        sums: dict[Any, float] = defaultdict(float)
        for part in ways:
            sums[part.source, part.kind] += part.share
            assert len(part.heads) <= (1 if heads == "each" else 2)
        wanted = {(part.source, part.kind): part.share for part in together[target]}
        assert sums == pytest.approx(wanted, abs=1e-6)
    count = sum(len(ways) for ways in apart.values())
    assert (count == sum(len(ways) for ways in together.values())) == (heads == "group")
    look = Look(heads=heads, group_size=2)
    assert len(select(graph, look=look).links) < LIMIT


def test_heads_of_one_source_are_summed_and_listed(graph: Graph) -> None:
    parts = [part for ways in merge(graph).values() for part in ways if part.kind == "attention"]
    assert all(sum(share for _, share in part.heads) == pytest.approx(part.share) for part in parts)
    assert any(len(part.heads) > 1 for part in parts)


def test_a_node_has_at_most_two_main_attention_sources(graph: Graph) -> None:
    links, _ = walk(merge(graph), {Spot("block", graph.row, graph.position): 1.0}, 0.0)
    sources: dict[Spot, int] = defaultdict(int)
    for link in links:
        sources[link.target] += link.kind == "attention"
    assert max(sources.values()) == 2


def test_no_node_passes_on_more_than_it_receives(graph: Graph) -> None:
    drawing = select(graph)
    leaving: dict[Spot, float] = defaultdict(float)
    entering: dict[Spot, float] = defaultdict(float)
    for link in drawing.links:
        if link.main:
            leaving[link.source] += link.flow
            entering[link.target] += link.flow
    for spot, mass in leaving.items():
        assert entering[spot] <= mass * (1 + 1e-6)
    assert entering[drawing.root] <= 1 + 1e-6


def test_the_drawn_mass_is_the_shown_mass() -> None:
    """A small graph fits completely: with all sources main and no thin links, all mass is shown."""
    graph = synthetic.graph(layers=2, tokens=3)
    parts = merge(graph)
    root = Spot("block", 2, 2)
    _, flow = walk(parts, {root: 1.0}, 0.0, sources=99)
    reached = sum(mass for spot, mass in flow.items() if spot[:2] == ("block", 0))
    assert reached == pytest.approx(1, abs=1e-5)


def by_paths(drawing: Any) -> dict[Spot, float]:
    """Mass by a second computation: over all main links, the product of their shares."""
    up = drawing.up
    ways: dict[Spot, list[tuple[Spot, float]]] = defaultdict(list)
    for link in drawing.links:
        if link.main:
            near, far = (link.source, link.target) if up else (link.target, link.source)
            ways[near].append((far, link.share))
    mass: dict[Spot, float] = defaultdict(float)
    mass |= {root: drawing.mass[root] for root in drawing.roots}
    for near in sorted(ways, key=lambda spot: spot.level if up else -spot.level):
        for far, part in ways[near]:
            mass[far] += mass[near] * part
    return mass


def test_shown_share_is_what_reaches_the_tokens(graph: Graph) -> None:
    drawing = select(graph)
    bottom = sum(value for spot, value in by_paths(drawing).items() if spot[:2] == ("block", 0))
    assert bottom == pytest.approx(drawing.shown, rel=1e-5)


def test_the_other_link_carries_exactly_the_hidden_mass(graph: Graph) -> None:
    drawing = select(graph)
    entered: dict[Spot, float] = defaultdict(float)
    for link in drawing.links:
        entered[link.target] += link.flow * link.main
    for spot, part in drawing.other.items():
        assert entered[spot] + part == pytest.approx(drawing.mass[spot], abs=1e-6)
    assert sum(drawing.other.values()) == pytest.approx(1 - drawing.shown, abs=1e-5)
    assert drawing.rest == pytest.approx(1 - drawing.shown)
    places = place(drawing, int(graph.node_pos.max()) + 1)
    outline = other_outline(drawing, places)
    assert outline[-1][1] == pytest.approx(drawing.rest * places.per_mass)
    assert outline[-2][1] == pytest.approx(outline[-1][1], abs=1e-3)
    assert [x for x, _ in outline] == sorted((x for x, _ in outline), reverse=True)


@pytest.mark.parametrize("position", [0, 2])
def test_upwards_mass_is_the_part_that_comes_from_the_token(position: int) -> None:
    graph = synthetic.upward(GRAPHS[12, 8], position)
    drawing = select(graph)
    assert drawing.up
    assert (drawing.low, drawing.high) == (0, 12)
    found, whole = by_paths(drawing), dict(zip(
        ((NODE_KINDS[kind], depth, pos) for kind, depth, pos in zip(
            graph.node_kind.tolist(), graph.node_depth.tolist(), graph.node_pos.tolist(),
            strict=True)), graph.node_flow.tolist(), strict=True))  # fmt: skip
    for spot, flow in drawing.node_flow.items():
        assert flow == pytest.approx(found.get(spot, 0.0), rel=1e-4, abs=1e-6)
        assert flow <= whole[spot] + 1e-6
        if flow and spot not in drawing.roots:
            assert flow + drawing.other[spot] == pytest.approx(whole[spot], abs=1e-5)
    top = [value for key, value in whole.items() if key[:2] == ("block", 12)]
    arrived = sum(value for spot, value in found.items() if spot[:2] == ("block", 12))
    assert drawing.shown == pytest.approx(arrived / sum(top), rel=1e-4)
    text = caption(graph, synthetic.run_result(12, 8))
    shown = round(100 * drawing.shown)
    assert text.startswith(f"Showing {shown} % of what reaches the state after layer 11 from ")
    assert "share of the state that it enters" in text
    made = drawn_of(graph)
    assert made["up"]
    assert made["other"] is None
    assert any(
        "comes from the root through this link" in line
        for link in made["links"]
        for line in link[10]
    )


def test_outgoing_parts_are_the_incoming_parts_reversed(graph: Graph) -> None:
    parts = merge(graph)
    out = leaving(parts)
    assert sorted(p for ways in out.values() for p in ways) == sorted(
        p for ways in parts.values() for p in ways)  # fmt: skip
    assert all(part.source == spot for spot, ways in out.items() for part in ways)


@pytest.mark.parametrize("up", [False, True])
def test_layers_left_out_are_folded_into_the_edges(up: bool) -> None:
    graph = synthetic.upward(GRAPHS[12, 8], 2) if up else GRAPHS[12, 8]
    look, rule = Look(first=4, last=7), Rule("least", least=0.001)
    drawing = select(graph, rule, look)
    assert (drawing.low, drawing.high) == (4, 8)
    assert {spot.depth for spot in drawing.node_flow if spot.kind == "block"} <= set(range(4, 9))
    assert all(4 <= link.first <= link.last <= 7 for link in drawing.links)
    node = {
        (kind, depth, pos): flow for kind, depth, pos, flow in zip(
            graph.node_kind.tolist(), graph.node_depth.tolist(), graph.node_pos.tolist(),
            graph.node_flow.tolist(), strict=True)}  # fmt: skip
    for root in drawing.roots:
        assert drawing.mass[root] == pytest.approx(node[0, root.depth, root.pos])
    text = caption(graph, synthetic.run_result(12, 8), rule=rule, look=look)
    assert "Layers 0 to 3 are folded into the left edge" in text
    if not up:
        edge = sum(flow for key, flow in node.items() if key[:2] == (0, 8))
        assert drawing.whole == pytest.approx(edge)
        lost = sum(drawing.other.values())
        assert drawing.shown + drawing.rest == pytest.approx(drawing.whole)
        assert lost == pytest.approx(drawing.rest, abs=0.02)  # starts too small to be drawn
        assert "Layers 8 to 11 are folded into the right edge" in text


@pytest.mark.parametrize(("first", "last"), [(40, 50), (11, 2), (5, 5), (None, 0)])
def test_any_range_of_layers_draws_at_least_one(first: int | None, last: int | None) -> None:
    drawing = select(GRAPHS[12, 8], look=Look(first, last))
    assert 0 <= drawing.low < drawing.high <= 12


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("adaptive", [True, False])
def test_bands_are_stacked_at_their_nodes(adaptive: bool, up: bool) -> None:
    graph = synthetic.upward(GRAPHS[12, 8], 2) if up else GRAPHS[12, 8]
    drawing = select(graph, look=Look(adaptive=adaptive))
    places = place(drawing, 8)
    at: dict[Spot, list[tuple[float, float]]] = defaultdict(list)
    for band in bands(drawing, places):
        assert band.x0 < band.x1
        if band.link.main:
            half = band.link.flow * places.per_mass / 2
            at[band.link.target].append((band.y1 - half, band.y1 + half))
    for spot, spans in at.items():
        spans.sort()
        tall = drawing.mass[spot] * places.per_mass
        assert spans[0][0] >= places.y(spot) - tall / 2 - 1e-3
        assert spans[-1][1] <= places.y(spot) + tall / 2 + 1e-3
        for (_, end), (start, _) in itertools.pairwise(spans):
            assert start >= end - 1e-3
    tops = [(middle - tall / 2, middle + tall / 2) for middle, tall in places.lanes.values()]
    assert all(b[0] == pytest.approx(a[1]) for a, b in itertools.pairwise(tops))
    for spot, mass in drawing.mass.items():
        assert mass * places.per_mass <= places.lanes[spot.pos][1]


def test_the_fixed_scale_is_the_same_in_every_picture() -> None:
    fixed = Look(adaptive=False)
    scales = {place(select(graph, look=fixed), 16).per_mass for graph in GRAPHS.values()}
    assert len(scales) == 1
    scale = scales.pop()
    for tall, part in drawn_of(GRAPHS[12, 8], look=fixed)["key"]:
        assert tall == pytest.approx(float(part.rstrip(" %")) / 100 * scale, abs=0.01)


def test_layers_in_which_only_the_residual_is_drawn_are_narrow() -> None:
    drawing = select(GRAPHS[30, 8], Rule("least", least=0.03))
    busy = {link.first for link in drawing.links if link.main and link.kind != "residual"}
    rows = place(drawing, 8).rows
    wide = {layer: rows[layer + 1] - rows[layer] for layer in range(30)}
    assert busy
    assert len(busy) < 30
    assert max(wide[layer] for layer in set(range(30)) - busy) < 0.4 * min(
        wide[layer] for layer in busy)  # fmt: skip


def test_collapsing_keeps_the_mass_at_the_tokens(graph: Graph) -> None:
    root = Spot("block", graph.row, graph.position)
    links, flow = walk(merge(graph), {root: 1.0}, 0.004)
    drawn = collapse(links, {root})
    assert len(drawn) <= len(links)
    before = sum(mass for spot, mass in flow.items() if spot[:2] == ("block", 0))
    after = sum(link.flow for link in drawn if link.source[:2] == ("block", 0))
    assert after == pytest.approx(before)


def test_runs_of_residual_become_one_link_that_names_its_layers() -> None:
    graph = chain(layers=6)
    (link,) = select(graph).links
    assert (link.kind, link.first, link.last) == ("residual", 0, 5)
    assert link.share == pytest.approx(1)


def chain(layers: int) -> Graph:
    """One token, nothing but the residual."""
    depths = [(1, layer) for layer in range(layers)] + [(0, row) for row in range(layers + 1)]
    depths.sort(key=lambda kind_depth: -(kind_depth[1] + 0.5 * kind_depth[0]))
    count = len(depths) - 1
    ones = np.ones(count, np.float32)
    return Graph(
        0, layers, "proximity",
        node_kind=np.array([kind for kind, _ in depths]),
        node_depth=np.array([depth for _, depth in depths]),
        node_pos=np.zeros(count + 1, np.int64),
        node_flow=np.ones(count + 1, np.float32),
        link_kind=np.ones(count, np.int64),
        link_layer=np.array([depth for kind, depth in depths if kind] * 2)[:count],
        link_head=np.full(count, -1),
        link_source=np.arange(1, count + 1),
        link_target=np.arange(count),
        link_share=ones,
        link_flow=ones,
        hidden_share=0.0,
        terminal_share=0.0,
        fallback_nodes=np.array([], np.int64),
    )  # fmt: skip


def test_the_caption_states_the_drawings_own_numbers(graph: Graph) -> None:
    drawing = select(graph)
    tokens = int(graph.node_pos.max()) + 1
    run, grid = synthetic.run_result(graph.row, tokens), synthetic.grid(graph.row, tokens)
    text = caption(graph, run, grid)
    shown = round(100 * drawing.shown)
    if not drawing.thin:
        assert text.startswith("Showing all of the flow into '")
        return
    said = percent(drawing.shown) if drawing.shown < 0.005 else f"{shown} %"
    assert text.startswith(f"Showing {said} of the flow into '")
    assert f"other: {100 - shown} %, in" in text
    assert f"{drawing.thin:,} thinner link" in text


def test_thin_links_are_the_links_without_a_main_link(graph: Graph) -> None:
    drawing = select(graph)
    parts = merge(graph)
    links, _ = walk(parts, {drawing.root: 1.0}, drawing.threshold)
    stands = {(link.source, link.target, link.kind) for link in links}
    with_residual = {link.key[:2] for link in links if link.carried}
    thin = [
        part
        for target, ways in parts.items()
        for part in ways
        if (part.source, target, part.kind) not in stands
        and (part.source, target) not in with_residual
    ]
    assert drawing.thin == len(thin)


def test_the_caption_states_the_pruned_mass() -> None:
    graph = dataclasses.replace(GRAPHS[12, 8], hidden_share=0.25, terminal_share=0.02)
    text = caption(graph)
    assert "Of the other, 25 % of the flow goes through links too thin" in text
    assert "2.0 % ends in biases, attention sinks or other parts" in text
    assert "into the state after layer 11, position 7" in text


def test_the_caption_of_a_complete_graph_says_that_it_is_complete() -> None:
    assert (
        caption(chain(layers=6))
        == "Showing all of the flow into the state after layer 5, position 0."
    )


@pytest.mark.parametrize("up", [False, True])
def test_faint_links_end_at_drawn_nodes(up: bool) -> None:
    graph = synthetic.upward(GRAPHS[30, 16], 3) if up else GRAPHS[30, 16]
    drawing = select(graph)
    seen = {spot for link in drawing.links if link.main for spot in link[:2]}
    quiet = [link for link in drawing.links if not link.main]
    assert quiet
    assert all((link.source if up else link.target) in seen for link in quiet)
    made = drawn_of(graph)
    assert [link[8] for link in made["links"]] == [int(link.main) for link in drawing.links]


def test_labels_never_overlap_at_any_zoom(graph: Graph) -> None:
    tokens = int(graph.node_pos.max()) + 1
    drawing = select(graph)
    texts = {
        (row, pos): "·reads" + "x" * ((row + pos) % 5)
        for row in range(graph.row + 1)
        for pos in range(tokens)
    }
    labels = place_labels(drawing, place(drawing, tokens), texts)
    assert any(label.spot == drawing.root for label in labels)
    for zoom in ZOOMS:
        visible = [label for label in labels if label.zoom <= zoom]
        for one, other in itertools.combinations(visible, 2):
            assert not overlap(one, other, zoom)
    if len(labels) > 20:
        assert {label.zoom for label in labels} > {1.0}


def test_a_picture_is_plain_values_and_plain_text(graph: Graph) -> None:
    made = drawn_of(graph)
    text = to_json_plotly(made)
    assert len(text) < 250_000
    assert "&lt;" not in text
    if len(made["lanes"]) == 8:
        assert "<b>x</b>" in {lane[1] for lane in made["lanes"]}
    count = len(made["nodes"])
    assert all(0 <= link[0] < count and 0 <= link[1] < count for link in made["links"])
    for _, _, height, covered, kind, go, lines in made["nodes"]:
        assert 0 <= covered <= height + 0.01
        assert kind in NODE_KINDS
        assert go.startswith("row=")
        assert lines[1].startswith("position ")
