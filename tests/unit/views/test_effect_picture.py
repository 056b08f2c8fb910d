"""The picture of an effect graph: which links are drawn, how, and what the caption claims."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from analysis.flow_graph.results import LINK_KINDS, NODE_KINDS, CausalCheck, Graph
from dash_app.page.theme import palette
from dash_app.page.token_labels import percent
from dash_app.views.flow.effect_picture import (
    EFFECT_COLUMNS,
    effect_caption,
    effect_figure,
    effect_rows,
)
from dash_app.views.flow.effect_selection import LANES, LIMIT, select_effects
from dash_app.views.flow.link_selection import Rule
from tests.support import synthetic

LAYERS, TOKENS = 6, 8
RUN = synthetic.run_result(LAYERS, TOKENS)
RULES = (Rule("sources", sources=1), Rule("mass", mass=0.6), Rule("least", least=0.004))


def effect_graph(tokens: int = TOKENS, measured: bool = False) -> Graph:
    """Random effects of every edge (heads summed) and every MLP; MLPs of layer 0 are measured."""
    random = np.random.default_rng(4)
    edges = [
        ("attention", layer, source, target)
        for layer, target in itertools.product(range(LAYERS), range(tokens))
        for source in range(target + 1)
    ]
    links = edges + [("mlp", layer, pos, pos) for layer in range(LAYERS) for pos in range(tokens)]
    effect = random.normal(size=len(links)).astype(np.float32) ** 3
    count, positions = len(links), np.arange(tokens)
    return Graph(
        tokens - 1, LAYERS, "effect",
        node_kind=np.full(tokens, NODE_KINDS.index("block")), node_depth=np.zeros(tokens, np.int64),
        node_pos=positions, node_flow=np.zeros(tokens, np.float32),
        link_kind=np.array([LINK_KINDS.index(kind) for kind, *_ in links]),
        link_layer=np.array([layer for _, layer, *_ in links]), link_head=np.full(count, -1),
        link_source=np.array([source for *_, source, _ in links]),
        link_target=np.array([target for *_, target in links]),
        link_share=effect, link_flow=effect, hidden_share=0.2, terminal_share=0.0,
        fallback_nodes=np.zeros(0, np.int64), roots=(tokens - 1,), token=1, foil=2, logit=3.25,
        link_measured=np.array([measured and kind == "mlp" and not layer
                                for kind, layer, *_ in links]),
        baseline="zero",
    )  # fmt: skip


def check_of(graph: Graph, count: int, factor: float) -> CausalCheck:
    """Measured effects of the strongest links, ``factor`` times their estimates."""
    chosen = np.argsort(-np.abs(graph.link_share))[:count]
    flow = graph.link_share[chosen]
    return CausalCheck(
        "effect", graph.position, 1, 2, 3.25, graph.link_kind[chosen], graph.link_layer[chosen],
        graph.link_head[chosen], graph.link_source[chosen], graph.link_target[chosen], flow, flow,
        flow * np.float32(factor), 0.9, 0, 0, 5,
    )  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_caption_counts_what_the_rule_draws(rule: Rule) -> None:
    graph = effect_graph()
    drawing = select_effects(graph, rule)
    sizes = np.abs(graph.link_share.astype(np.float64))
    drawn = sum(abs(link.effect) for link in drawing.links)
    assert 0 < len(drawing.links) <= LIMIT
    assert len(drawing.links) + drawing.left_out == len(sizes)
    assert drawing.size == pytest.approx(sizes.sum() / 0.8)  # a fifth was pruned before
    assert drawing.shown == pytest.approx(drawn * 0.8 / sizes.sum())
    text = effect_caption(graph, drawing, {1: synthetic.token(1)})
    assert "the logit of ' Paris' minus that of token 2 (position 7, now +3.25)" in text
    total = sum(link.effect for link in drawing.links)
    assert f"The drawn links sum to {total:+.2f} (" in text
    assert "do not sum to the logit" in text
    assert "Measured: 0 links" in text
    assert "differ" not in text
    assert "Not cut" not in text


def test_the_caption_names_parts_that_are_not_cut() -> None:
    graph = effect_graph()
    drawing = select_effects(graph)
    text = effect_caption(graph, drawing, {}, ("attention", "mlp", "ssm"))
    assert text.endswith("Not cut, so without links: mixer.")


def test_rules_select_the_strongest() -> None:
    graph = effect_graph()
    ordered = np.sort(np.abs(graph.link_share.astype(np.float64)))[::-1]
    mass = select_effects(graph, Rule("mass", mass=0.3)).links
    assert [abs(link.effect) for link in mass] == pytest.approx(ordered[: len(mass)].tolist())
    before = ordered[: len(mass) - 1].sum()
    assert before < 0.3 * ordered.sum() / 0.8 <= before + ordered[len(mass) - 1]
    one = select_effects(graph, Rule("sources", sources=1)).links
    into = [(link.layer, link.target) for link in one if link.kind == "attention"]
    assert len(into) == len(set(into))


def test_a_long_prompt_has_a_limited_number_of_lanes_and_links() -> None:
    graph = effect_graph(20)
    drawing = select_effects(graph, Rule("least", least=0.0))
    assert len(drawing.positions) == LANES
    assert len(drawing.links) == LIMIT
    assert {pos for link in drawing.links for pos in (link.source, link.target)} <= set(
        drawing.positions
    )
    other = synthetic.run_result(LAYERS, 20)
    go.Figure(effect_figure(graph, drawing, other, theme="light"))


def paths(figure: Any) -> list[Any]:
    """The lines of the attention links."""
    return [shape for shape in figure["layout"]["shapes"] if shape["type"] == "path"]


def test_estimated_and_measured_links_look_different() -> None:
    graph = effect_graph(measured=True)
    drawing = select_effects(graph, Rule("least", least=0.0), estimated=effect_graph())
    assert {(link.kind, link.layer) for link in drawing.links if link.measured} == {("mlp", 0)}
    figure = effect_figure(graph, drawing, RUN, theme="light")
    lines = paths(figure)
    assert {line["line"]["dash"] for line in lines} == {"4px,3px"}
    edges = [link for link in drawing.links if link.kind == "attention"]
    assert sum(line["path"].count("M") for line in lines) == len(edges) > len(lines)
    widest = max(lines, key=lambda line: line["line"]["width"])["path"]
    lanes = {pos: -number for number, pos in enumerate(drawing.positions)}
    largest = max(edges, key=lambda link: abs(link.effect))
    start = f"M{largest.layer},{lanes[largest.source]}L"
    assert f"{start}{largest.layer + 0.5},{lanes[largest.target]}" in widest
    squares = figure["data"][-1]
    mlps = [link for link in drawing.links if link.kind == "mlp"]
    for link, symbol in zip(mlps, squares["marker"]["symbol"], strict=True):
        assert ("open" in symbol) != link.measured or link.differs
    share = sum(abs(link.effect) for link in mlps if link.measured)
    share /= sum(abs(link.effect) for link in drawing.links)
    count = sum(link.measured for link in mlps)
    assert f"Measured: {count} links, {percent(share)} of" in effect_caption(graph, drawing, {})


def test_the_caption_says_that_all_links_are_measured() -> None:
    graph = effect_graph()
    for marks, said in ((True, True), (False, False)):
        every = replace(graph, link_measured=np.full(len(graph.link_kind), marks))
        text = effect_caption(every, select_effects(every), {})
        assert ("All links are measured" in text) == said
        assert ("estimated with one backward pass" in text) != said


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_signs_have_the_colours_of_the_key(theme: Any) -> None:
    graph = effect_graph()
    drawing = select_effects(graph, Rule("least", least=0.0))
    figure = effect_figure(graph, drawing, RUN, theme=theme)
    up, down = palette(theme).signed[5][1], palette(theme).signed[1][1]
    squares = figure["data"][-1]
    mlps = [link for link in drawing.links if link.kind == "mlp"]
    assert squares["marker"]["color"] == [up if link.effect > 0 else down for link in mlps]


@pytest.mark.parametrize(("factor", "marked"), [(1.1, False), (1.5, True), (-1.0, True)])
def test_links_that_a_check_contradicts_are_marked(factor: float, marked: bool) -> None:
    graph = effect_graph()
    check = check_of(graph, 30, factor)
    drawing = select_effects(graph, Rule("mass", mass=0.3), check=check)
    known = min(30, len(drawing.links))
    assert not any(link.measured for link in drawing.links)
    assert sum(link.differs for link in drawing.links) == (known if marked else 0)
    text = effect_caption(graph, drawing, {})
    assert f"Of {known} drawn links with both, {known if marked else 0} differ by over 20 %" in text
    figure = effect_figure(graph, drawing, RUN, theme="dark")
    _, marks, squares = figure["data"]
    crosses = len(marks["x"])
    crosses += sum("x" in symbol.split("-")[1:] for symbol in squares["marker"]["symbol"])
    assert crosses == (known if marked else 0)


def test_measured_effects_replace_estimates_when_the_picture_is_redrawn() -> None:
    graph = effect_graph()
    check = check_of(graph, 500, -2.0)
    estimated = select_effects(graph, Rule("mass", mass=0.5), check=check)
    redrawn = select_effects(graph, Rule("mass", mass=0.5), check=check, redrawn=True)
    before = {link[:5]: link.effect for link in estimated.links}
    assert all(link.measured for link in redrawn.links)
    for link in redrawn.links:
        assert link.effect == pytest.approx(-2.0 * before.get(link[:5], link.effect / -2.0))
    figure = effect_figure(graph, redrawn, RUN, theme="light")
    dashes = {line["line"]["dash"] for line in paths(figure)}
    assert dashes == {"solid"}
    assert "100 % of the drawn effect" in effect_caption(graph, redrawn, {})


def test_the_list_has_both_effects_and_selects_the_link() -> None:
    graph = effect_graph(measured=True)
    drawing = select_effects(
        graph, Rule("mass", mass=0.5), estimated=effect_graph(), check=check_of(graph, 3, 1.5)
    )
    table = effect_rows(drawing, RUN)
    assert table["columns"] == EFFECT_COLUMNS
    for link, row in zip(drawing.links, table["rows"], strict=True):
        assert row[5] == pytest.approx(link.estimate, abs=1e-4)
        assert (row[6] == "") == bool(np.isnan(link.found))
        assert row[-1].startswith(f"layer={link.layer}&link={link.kind}:{link.layer}:")


def test_hover_and_click_name_the_link() -> None:
    graph = effect_graph()
    drawing = select_effects(graph, Rule("mass", mass=0.4))
    figure = effect_figure(graph, drawing, RUN, theme="light")
    drawn = [trace for trace in figure["data"] if "customdata" in trace]
    named = {tuple(data[1:]) for trace in drawn for data in trace["customdata"]}
    assert named == {
        (link.kind, link.layer, link.source, link.target, link.head) for link in drawing.links
    }
    texts = [data[0] for trace in drawn for data in trace["customdata"]]
    assert all("estimated: " in text for text in texts)


def test_only_effect_graphs_have_this_picture() -> None:
    with pytest.raises(ValueError, match="has no effects"):
        select_effects(replace(effect_graph(), method="signed"))
