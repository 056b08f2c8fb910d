"""Hover texts of the flow picture, and its sum with folded sinks."""

from __future__ import annotations

import re

from dash_app.page.token_labels import percent
from dash_app.views.flow.captions import caption
from dash_app.views.flow.link_selection import select
from dash_app.views.flow.picture import picture
from tests.support import synthetic
from tests.unit.views.test_flow_options import RUN, folded

MANY = synthetic.graph(12, 8, heads=7)
TITLES = {
    "block": r"embedding|after layer \d+",
    "mid": r"layer \d+, between attention and MLP",
}


def test_a_node_has_its_kind_in_its_name() -> None:
    nodes = picture(MANY, RUN, None)["nodes"]
    kinds = {node[4] for node in nodes}
    assert {"block"} <= kinds <= set(TITLES)
    for *_, kind, _, lines in nodes:
        assert re.fullmatch(TITLES[kind], lines[0])


def test_a_link_counts_the_heads_that_it_does_not_name() -> None:
    told = [link[10] for link in picture(MANY, RUN, None)["links"] if link[7] == "attention"]
    assert told
    for lines in told:
        assert sum(line.startswith("  head ") for line in lines) == 4
        assert "  3 more heads" in lines


def test_the_caption_states_what_counts_with_a_residual() -> None:
    links = zip(select(MANY).links, picture(MANY, RUN, None)["links"], strict=True)
    told = 0
    for link, made in links:
        said = f"{percent(link.along)} of it in thin MLP and same-position attention links"
        assert (said in made[10]) == (link.along > 0.005)
        told += link.along > 0.005
    assert told


def test_with_folded_sinks_shown_other_and_sinks_make_the_whole() -> None:
    graph = folded()
    drawing = select(graph)
    text = caption(graph, RUN)
    shown, soaked = round(100 * drawing.shown), round(100 * drawing.soaked)
    assert soaked > 0
    assert f"other: {100 - shown - soaked} %, in" in text
    assert f"is folded: {percent(drawing.soaked)} of the flow ends there in drawn links" in text
