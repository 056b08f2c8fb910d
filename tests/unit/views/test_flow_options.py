"""The rules for main paths, several roots, sinks, signed flow, the table and the causal check."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from analysis.flow_graph.results import LINK_KINDS, NODE_KINDS, CausalCheck, Graph
from dash_app.page.theme import palette
from dash_app.views.flow.captions import COLUMNS, caption, link_rows, signed_rows
from dash_app.views.flow.link_selection import LIMIT, MAIN_LIMIT, Rule, select
from dash_app.views.flow.paths import merge, walk
from dash_app.views.flow.picture import picture, scatter
from dash_app.views.flow.signed_picture import LIMIT as MOST_BARS
from dash_app.views.flow.signed_picture import select_signed, signed_caption, signed_figure
from tests.support import synthetic
from tests.support.repository import ROOT

GRAPH = synthetic.graph(12, 8)
RUN = synthetic.run_result(12, 8)
RULES = [
    *(Rule("sources", sources=count) for count in (1, 2, 5, 8)),
    *(Rule("mass", mass=mass) for mass in (0.1, 0.5, 0.99)),
    *(Rule("least", least=least) for least in (0.001, 0.02, 0.5)),
]


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("size", [(12, 8), (30, 16)])
def test_no_rule_draws_over_the_limit(rule: Rule, size: tuple[int, int]) -> None:
    drawing = select(synthetic.graph(*size), rule)
    assert len(drawing.links) < LIMIT
    assert sum(link.main for link in drawing.links) <= MAIN_LIMIT


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_a_node_has_the_requested_number_of_sources(count: int) -> None:
    root = select(GRAPH).root
    links, _ = walk(merge(GRAPH), {root: 1.0}, 0.0, Rule("sources", sources=count).at_each)
    found: dict[Any, int] = defaultdict(int)
    for link in links:
        found[link.target] += link.kind == "attention"
    assert max(found.values()) == min(count, 8)


def test_the_mass_is_reached_or_the_caption_says_that_it_is_not() -> None:
    for mass in (0.1, 0.2, 0.3, 0.5, 0.99):
        drawing = select(GRAPH, Rule("mass", mass=mass))
        assert drawing.short or drawing.shown >= mass
        assert (
            "The rule selects more links" in caption(GRAPH, RUN, rule=Rule("mass", mass=mass))
        ) == (drawing.short)
    assert select(GRAPH, Rule("mass", mass=0.99)).short
    few, more = (len(select(GRAPH, Rule("mass", mass=mass)).links) for mass in (0.05, 0.2))
    assert few <= more


def test_links_have_at_least_the_requested_share() -> None:
    drawing = select(GRAPH, Rule("least", least=0.05))
    strong = [link for link in drawing.links if link.main and link.kind in ("attention", "mlp")]
    assert strong
    assert all(link.flow >= 0.05 - 1e-9 for link in strong)


def test_several_roots_share_the_mass() -> None:
    drawing = select(replace(GRAPH, roots=(6, 7)))
    assert [root.pos for root in drawing.roots] == [6, 7]
    assert [drawing.node_flow[root] for root in drawing.roots] == [0.5, 0.5]
    text = caption(replace(GRAPH, roots=(6, 7)), RUN)
    assert "the whole answer (after layer 11, positions 6 to 7, weighted equally)" in text


def folded() -> Graph:
    """The graph with attention to position 0 as sink links."""
    return dataclasses.replace(GRAPH, **synthetic_sinks(GRAPH), sink_positions=(0,))


def synthetic_sinks(graph: Graph) -> dict[str, Any]:
    """Columns of ``graph`` in which every attention link from position 0 comes from a sink."""
    attention, sink = LINK_KINDS.index("attention"), LINK_KINDS.index("sink")
    kind, source = graph.link_kind.copy(), graph.link_source.copy()
    nodes = list(zip(graph.node_kind, graph.node_depth, graph.node_pos, strict=True))
    for number in np.flatnonzero(kind == attention):
        target = nodes[graph.link_target[number]]
        if nodes[source[number]][2] == 0 and target[2] != 0:
            key = (NODE_KINDS.index("sink"), graph.link_layer[number], target[2])
            if key not in nodes:
                nodes.append(key)
            kind[number], source[number] = sink, nodes.index(key)
    columns = np.array(nodes)
    flow = np.append(graph.node_flow, np.zeros(len(nodes) - len(graph.node_flow), np.float32))
    return {"link_kind": kind, "link_source": source, "node_kind": columns[:, 0],
            "node_depth": columns[:, 1], "node_pos": columns[:, 2], "node_flow": flow}  # fmt: skip


def test_folded_sinks_are_drawn_with_their_mass() -> None:
    graph = folded()
    drawing = select(graph)
    links = [link for link in drawing.links if link.kind == "sink" and link.main]
    assert links
    assert drawing.soaked == pytest.approx(sum(link.flow for link in links), rel=1e-4)
    text = caption(graph, RUN)
    assert "Attention to sinks (position 0) is folded" in text
    assert any(node[4] == "sink" for node in picture(graph, RUN, None)["nodes"])


def test_the_hidden_mass_is_stated() -> None:
    hidden = replace(GRAPH, hidden_positions=(0,))
    assert "its mass counts as not shown" in caption(hidden, RUN)
    assert "scaled to sum to 1" in caption(replace(hidden, reweighted=True), RUN)


def signed_graph(layers: int = 12, tokens: int = 8, heads: int = 4) -> Graph:
    """Random direct paths into the last state, an "other" link among them."""
    random = np.random.default_rng(3)
    paths = [("residual", 0, -1, tokens - 1), ("bias", layers, -1, tokens - 1)]
    paths += [("mlp", layer, -1, tokens - 1) for layer in range(layers)]
    paths += [("attention", *path) for path in itertools.product(
        range(layers), range(heads), range(tokens))]  # fmt: skip
    paths.append(("other", 0, -1, tokens - 1))
    logits = random.normal(size=len(paths)).astype(np.float32)
    count, block = len(paths), NODE_KINDS.index("block")
    names = ["block" if kind in ("attention", "residual") else kind for kind, *_ in paths]
    return Graph(
        tokens - 1, layers, "signed",
        node_kind=np.array([block, *(NODE_KINDS.index(name) for name in names)]),
        node_depth=np.array([layers, *(layer for _, layer, *_ in paths)]),
        node_pos=np.array([tokens - 1, *(pos for *_, pos in paths)]),
        node_flow=np.append(np.float32(logits.sum()), logits),
        link_kind=np.array([LINK_KINDS.index(kind) for kind, *_ in paths]),
        link_layer=np.array([layer for _, layer, *_ in paths]),
        link_head=np.array([head for *_, head, _ in paths]),
        link_source=np.arange(1, count + 1), link_target=np.zeros(count, np.int64),
        link_share=logits, link_flow=logits, hidden_share=0.0, terminal_share=0.0,
        fallback_nodes=np.zeros(0, np.int64), roots=(tokens - 1,), token=1, foil=2,
        logit=float(logits.astype(np.float64).sum()) + 1e-3,
    )  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_signed_bars_and_the_rest_sum_to_the_logit(rule: Rule) -> None:
    graph = signed_graph()
    drawing = select_signed(graph, rule)
    parts = drawing.raised + drawing.lowered + drawing.other_raised + drawing.other_lowered
    assert parts == pytest.approx(graph.logit, abs=2e-3)
    assert drawing.error == pytest.approx(-1e-3, abs=1e-5)
    assert len(drawing.bars) <= MOST_BARS
    assert all(sum(logits for _, logits in bar.heads) == pytest.approx(bar.logits, abs=1e-5)
               for bar in drawing.bars if bar.heads)  # fmt: skip


def test_each_rule_draws_the_bars_that_it_names() -> None:
    graph = signed_graph()
    sources = select_signed(graph, Rule("sources", sources=3)).bars
    of_layer = defaultdict(int)
    for bar in sources:
        of_layer[bar.layer] += bar.kind == "attention"
    assert max(of_layer.values()) == 3
    mass = select_signed(graph, Rule("mass", mass=0.4))
    assert mass.shown >= 0.4 > mass.shown - abs(mass.bars[-1].logits) / mass.size
    least = select_signed(graph, Rule("least", least=0.01))
    sizes = [abs(bar.logits) / least.size for bar in least.bars]
    assert len(sizes) > 5
    assert min(sizes) >= 0.01


def test_bars_match_the_axis_and_count_their_heads() -> None:
    graph = signed_graph(heads=16)
    drawing = select_signed(graph, Rule("least", least=0.0))
    figure = signed_figure(graph, drawing, RUN, theme="light")
    (trace,) = figure["data"]
    top = max(abs(bar.logits) for bar in drawing.bars)
    assert f"tallest bar {top:.2g} logits" in figure["layout"]["xaxis"]["title"]["text"]
    heights = np.abs(trace["y"]) * top / np.abs(trace["y"]).max()
    np.testing.assert_allclose(heights, [abs(bar.logits) for bar in drawing.bars])
    assert 0.4 < np.abs(trace["y"]).max() < 0.5  # of a lane
    for bar, (text, *_) in zip(drawing.bars, trace["customdata"], strict=True):
        assert text.count("<br>  head ") == min(len(bar.heads), 5)
        assert (f"{len(bar.heads) - 5} more heads" in text) == (len(bar.heads) > 5)


def test_bars_left_out_are_counted_and_every_mlp_is_drawn() -> None:
    graph = signed_graph()
    kinds = [LINK_KINDS[kind] for kind in graph.link_kind]
    every = {
        (kind, -1 if kind == "residual" else layer, source, logits > 0)
        for kind, layer, source, logits in zip(
            kinds, graph.link_layer.tolist(), graph.node_pos[graph.link_source].tolist(),
            graph.link_share.tolist(), strict=True)
        if kind != "other"
    }  # fmt: skip
    drawing = select_signed(graph, Rule("sources", sources=1))
    drawn = {(bar.kind, bar.layer, bar.source, bar.logits > 0) for bar in drawing.bars}
    assert drawn < every
    assert drawing.left_out == len(every) - len(drawn)
    assert f"in {drawing.left_out:,} more" in signed_caption(graph, drawing, {})
    others = {one for one in every if one[0] != "attention"}
    assert others <= drawn
    assert len(drawn - others) == 12  # one a layer


def test_a_bar_names_its_layer_and_selects_it() -> None:
    graph = signed_graph()
    drawing = select_signed(graph, Rule("least", least=0.0))
    (trace,) = signed_figure(graph, drawing, RUN, theme="light")["data"]
    up, down = palette("light").signed[5][1], palette("light").signed[1][1]
    assert trace["marker"]["color"] == [up if bar.logits > 0 else down for bar in drawing.bars]
    for bar, (text, kind, layer, *_) in zip(drawing.bars, trace["customdata"], strict=True):
        name = {"mlp": "MLP", "residual": "embedding"}.get(bar.kind, bar.kind)
        title = name if bar.kind == "residual" else f"layer {bar.layer}: {name}"
        assert text.startswith(f"<b>{title}</b>")
        assert (kind, layer) == (bar.kind, {-1: 0, 12: 11}.get(bar.layer, bar.layer))


def test_a_signed_picture_separates_the_signs() -> None:
    graph = signed_graph(30, 16)
    drawing = select_signed(graph, Rule("least", least=0.0))
    figure = signed_figure(graph, drawing, synthetic.run_result(30, 16), theme="light")
    go.Figure(figure)
    (trace,) = figure["data"]
    colours = {bool(y > 0): colour for y, colour in zip(
        trace["y"], trace["marker"]["color"], strict=True)}  # fmt: skip
    assert len(set(trace["marker"]["color"])) == len(colours) == 2
    text = signed_caption(graph, drawing, {1: synthetic.token(1)})
    assert "logit of ' Paris' minus that of token 2" in text
    assert "the error 1e-03" in text


def test_each_kind_of_graph_has_its_own_picture() -> None:
    with pytest.raises(ValueError, match="signed"):
        select(signed_graph())
    with pytest.raises(ValueError, match="shares"):
        select_signed(GRAPH)


def test_the_table_has_the_pictures_links() -> None:
    drawing = select(GRAPH)
    table = link_rows(drawing, RUN)
    assert len(table["rows"]) == len(drawing.links)
    others = [row[6] for row in table["others"]]
    assert sum(others) == pytest.approx(drawing.rest, abs=1e-3)
    assert all(len(row) == len(COLUMNS) + 1 for row in table["rows"])
    for link, row in zip(drawing.links, table["rows"], strict=True):
        assert row[6] == pytest.approx(link.flow, abs=1e-5)
        if link.kind == "attention":
            assert f"layer={link.first}&heads={link.heads[0][0]}&link=attention" in row[-1]
    signed = select_signed(signed_graph())
    rows = signed_rows(signed, signed_graph(), RUN)["rows"]
    assert [row[6] for row in rows] == [round(bar.logits, 4) for bar in signed.bars]


def test_a_row_counts_the_heads_that_it_does_not_name() -> None:
    rows = signed_rows(select_signed(many := signed_graph(heads=16)), many, RUN)["rows"]
    of_heads = [row[2] for row in rows if row[0] == "attention"]
    assert any(len(text.split(", ")) == 6 and text.endswith(" more") for text in of_heads)
    for text, bar in zip(of_heads, (b for b in select_signed(many).bars if b.heads), strict=True):
        named, _, more = text.partition(" and ")
        assert len(named.split(", ")) + int(more.removesuffix(" more") or 0) == len(bar.heads)


def test_an_attention_link_leads_to_the_layer_that_attends() -> None:
    """A joined link spans residual layers above; its head is in the first layer."""
    joined = [link for link in select(GRAPH).links if link.kind == "attention"]
    assert joined
    attends = GRAPH.link_kind == LINK_KINDS.index("attention")
    targets = GRAPH.node_pos[GRAPH.link_target[attends]].tolist()
    layers = set(zip(GRAPH.link_layer[attends].tolist(), targets, strict=True))
    assert all((link.first, link.target.pos) in layers for link in joined)


@pytest.mark.parametrize("method", ["proximity", "signed"])
def test_the_scatter_has_every_cut(method: str) -> None:
    numbers = np.arange(4)
    kind = np.array([LINK_KINDS.index(name) for name in ("attention", "mlp", "mlp", "attention")])
    effect = np.array([0.5, -0.25, 0.1, -1.0])
    check = CausalCheck(
        method, 7, 1, -1, 3.0, kind, numbers, np.array([1, -1, -1, 2]), numbers, numbers + 1,
        effect, np.linspace(0.1, 0.4, 4), effect, 0.25, 1, 2, 3,
    )  # fmt: skip
    figure = scatter(check, RUN, theme="light")
    go.Figure(figure)
    drawn = sorted(float(y) for trace in figure["data"] for y in trace["y"])
    assert drawn == pytest.approx(sorted(effect if method == "signed" else abs(effect)))
    assert figure["layout"]["title"]["text"].endswith("+0.25 over 4 links cut")
    none = scatter(replace(check, correlation=float("nan")), RUN, theme="dark")
    assert "No rank correlation" in none["layout"]["title"]["text"]


def test_the_key_has_the_colours_of_the_bars() -> None:
    css = (ROOT / "assets" / "css" / "theme.css").read_text("utf-8")
    found = re.findall(r"--positive: (#\w+);\s+--negative: (#\w+);", css)
    drawn = [(p.signed[5][1], p.signed[1][1]) for p in (palette("light"), palette("dark"))]
    assert found == drawn
