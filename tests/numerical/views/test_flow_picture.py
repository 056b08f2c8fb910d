"""The mass that flow pictures state as left out, against complete graphs."""

from __future__ import annotations

import numpy as np
import pytest

import analysis
from analysis.tracing.generation import run
from analysis.tracing.specs import RunSpec
from dash_app.page.token_labels import percent
from dash_app.views.flow.captions import caption, signed_rows
from dash_app.views.flow.link_selection import Rule
from dash_app.views.flow.signed_picture import select_signed, signed_caption
from tests.numerical.conftest import Case
from tests.numerical.flow_graph.test_sinks import with_sink
from tests.support import built, zoo


@pytest.fixture(scope="module", params=["llama", "gemma2"])
def model(request: pytest.FixtureRequest) -> Case:
    found = built.understood(zoo.make(request.param), request.param)
    return Case(found, analysis.trace(found, (5, 9, 33, 2, 8, 41, 7, 60)))


@pytest.mark.parametrize("budget", [12, 40, None])
def test_a_signed_picture_equals_the_sum_over_paths(model: Case, budget: int | None) -> None:
    """Paths that the graph pruned to one net sum still count with their absolute values."""
    whole = analysis.flow(model.model, model.trace, method="signed")
    size = float(np.abs(whole.link_share.astype(np.float64)).sum())
    graph = analysis.flow(model.model, model.trace, method="signed", budget=budget)
    drawing = select_signed(graph, Rule("least", least=0.02))
    assert drawing.bars
    assert drawing.shown == pytest.approx(sum(abs(b.logits) for b in drawing.bars) / size, rel=1e-4)
    assert (drawing.pruned != 0.0) == (budget is not None)
    kept = {(k.layer, k.kind, k.head, k.source_pos) for k in graph.links}
    net = sum(
        k.share for k in whole.links if (k.layer, k.kind, k.head, k.source_pos) not in kept
    )  # fmt: skip
    assert drawing.pruned == pytest.approx(net, abs=1e-4)
    said = signed_caption(graph, drawing, {})
    assert f"{percent(drawing.shown)} of all by absolute value" in said
    assert ("and the thinnest paths (" in said) == (budget is not None)
    result, _ = run(model.model, RunSpec("any", token_ids=model.trace.token_ids))
    rows = signed_rows(drawing, graph, result)["rows"]
    assert rows[0][5] == pytest.approx(abs(drawing.bars[0].logits) / size, rel=1e-3)


def test_a_hidden_start_does_not_count_as_thin_links(small: Case) -> None:
    """Nothing was pruned: the hidden mass is the start token's."""
    trace = with_sink(small.trace, 0)
    whole = analysis.flow(small.model, trace, method="proximity")
    hidden = analysis.flow(small.model, trace, hide_start="loss")
    kept = {(k.target, k.source, k.head) for k in hidden.links}
    flows = {node.key: node.flow for node in hidden.nodes}
    lost = sum(
        flows[k.target] * k.share
        for k in whole.links
        if (k.target, k.source, k.head) not in kept and k.target in flows
    )
    assert hidden.hidden_share == pytest.approx(lost, abs=1e-5)
    said = caption(hidden)
    assert f"{percent(hidden.hidden_share)} of the flow goes to the hidden start or through" in said
    assert "hidden start" not in caption(
        analysis.flow(small.model, trace, method="proximity", threshold=0.05)
    )


def test_upward_captions_state_the_cut_mass_too(small: Case) -> None:
    graph = analysis.flow(small.model, small.trace, position=2, direction="up", threshold=0.05)
    assert graph.hidden_share > 0.005
    assert f"Of the other, {percent(graph.hidden_share)} of it goes through links" in caption(graph)
