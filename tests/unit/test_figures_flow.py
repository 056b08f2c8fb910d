"""The flow picture: what is chosen, where it lies, what it says of itself."""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict

import numpy as np
import plotly.graph_objects as go
import pytest

from analysis.results import Graph
from dash_app.figures.flow import caption, sankey
from dash_app.figures.flow_parts import Spot, merge
from dash_app.figures.flow_place import LINE, overlap, place, place_labels
from dash_app.figures.flow_select import LIMIT, collapse, select, walk
from tests.support import synthetic

SIZES = [(2, 3), (12, 8), (30, 8), (12, 16), (30, 16)]
GRAPHS = {size: synthetic.graph(*size) for size in SIZES}


@pytest.fixture(params=SIZES, ids=str)
def graph(request: pytest.FixtureRequest) -> Graph:
    return GRAPHS[request.param]


def test_at_most_300_links_and_main_ones_first(graph: Graph) -> None:
    drawing = select(graph)
    assert len(drawing.links) < LIMIT == 300
    kinds = [link.main for link in drawing.links]
    assert kinds == sorted(kinds, reverse=True)
    run = synthetic.run_result(graph.row, int(graph.node_pos.max()) + 1)
    figure = sankey(graph, run, None, theme="light")
    assert len(figure["data"][0]["link"]["value"]) == len(drawing.links) + 1


def test_merging_keeps_every_share(graph: Graph) -> None:
    for ways in merge(graph).values():
        assert sum(part.share for part in ways) == pytest.approx(1, abs=1e-5)


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


def test_no_node_lets_out_more_than_comes_in(graph: Graph) -> None:
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


def test_everything_drawn_is_everything_shown() -> None:
    """A small graph fits whole: with all sources main and no thin links, all mass is shown."""
    graph = synthetic.graph(layers=2, tokens=3)
    parts = merge(graph)
    root = Spot("block", 2, 2)
    _, flow = walk(parts, {root: 1.0}, 0.0, sources=99)
    reached = sum(mass for spot, mass in flow.items() if spot[:2] == ("block", 0))
    assert reached == pytest.approx(1, abs=1e-5)


def test_shown_share_is_what_reaches_the_tokens(graph: Graph) -> None:
    """Against a second computation: sum over all drawn paths of the product of their shares."""
    drawing = select(graph)
    share: dict[Spot, list[tuple[Spot, float]]] = defaultdict(list)
    for link in drawing.links:
        if link.main:
            share[link.target].append((link.source, link.share))
    mass: dict[Spot, float] = defaultdict(float, {drawing.root: 1.0})
    for target in sorted(share, key=lambda spot: -spot.level):
        for source, part in share[target]:
            mass[source] += mass[target] * part
    bottom = sum(value for spot, value in mass.items() if spot[:2] == ("block", 0))
    assert bottom == pytest.approx(drawing.shown, rel=1e-5)


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
    assert text.startswith(f"Showing {shown} % of the flow into '")
    assert f"other: {100 - shown} %, by" in text
    assert f"{drawing.thin:,} thinner link" in text


def test_thin_links_are_those_that_no_main_link_stands_for(graph: Graph) -> None:
    drawing = select(graph)
    parts = merge(graph)
    links, _ = walk(parts, {drawing.root: 1.0}, drawing.threshold)
    stands = {(link.source, link.target, link.kind) for link in links}
    with_residual = {(link.source, link.target) for link in links if link.carried}
    thin = [
        part
        for target, ways in parts.items()
        for part in ways
        if (part.source, target, part.kind) not in stands
        and (part.source, target) not in with_residual
    ]
    assert drawing.thin == len(thin)


def test_the_caption_states_what_the_graph_left_out() -> None:
    graph = dataclasses.replace(GRAPHS[12, 8], hidden_share=0.25, terminal_share=0.02)
    text = caption(graph)
    assert "25 % goes by links that the graph leaves out" in text
    assert "2.0 % ends in biases or attention sinks" in text
    assert "into row 12, position 7" in text


def test_the_caption_of_a_whole_graph_says_all() -> None:
    assert caption(chain(layers=6)) == "Showing all of the flow into row 6, position 0."


def test_quiet_links_enter_drawn_nodes_and_are_transparent(graph: Graph) -> None:
    drawing = select(graph)
    seen = {spot for link in drawing.links if link.main for spot in link[:2]} | {drawing.root}
    quiet = [link for link in drawing.links if not link.main]
    assert all(link.target in seen for link in quiet)
    tokens = int(graph.node_pos.max()) + 1
    figure = sankey(graph, synthetic.run_result(graph.row, tokens), None, theme="dark")
    colours = figure["data"][0]["link"]["color"]
    assert [colour.endswith(",0)") for colour in colours[:-1]] == [
        not link.main for link in drawing.links
    ]


def test_labels_never_overlap(graph: Graph) -> None:
    tokens = int(graph.node_pos.max()) + 1
    drawing = select(graph)
    texts = {
        (row, pos): "·reads" + "x" * ((row + pos) % 5)
        for row in range(graph.row + 1)
        for pos in range(tokens)
    }
    labels = place_labels(drawing, place(drawing, tokens), texts)
    assert any(label.spot == drawing.root for label in labels)
    for one, other in itertools.combinations(labels, 2):
        assert not overlap(one, other)
        assert abs(one.y - other.y) >= LINE or one.x != other.x


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_figure_is_a_plotly_figure(graph: Graph, theme: str) -> None:
    tokens = int(graph.node_pos.max()) + 1
    run, grid = synthetic.run_result(graph.row, tokens), synthetic.grid(graph.row, tokens)
    figure = sankey(graph, run, grid, theme=theme, row=graph.row, pos=graph.position)  # type: ignore[arg-type]
    go.Figure(figure)
    node = figure["data"][0]["node"]
    assert len(node["x"]) == len(node["customdata"]) == len(node["color"])
    assert all(0 < x < 1.01 for x in node["x"][:-2])


def test_token_text_reaches_hover_boxes_as_text() -> None:
    graph = GRAPHS[12, 8]
    figure = sankey(graph, synthetic.run_result(12, 8), synthetic.grid(12, 8), theme="light")
    hovers = [data[0] for data in figure["data"][0]["node"]["customdata"]]
    assert any("&lt;b&gt;x&lt;/b&gt;" in text for text in hovers)
    for text in hovers:
        assert text.replace("<b>", "", 1).replace("</b>", "", 1).replace("<br>", "").count("<") == 0
