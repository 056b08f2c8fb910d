"""Sinks are found by their effect, and a graph states what it hides of them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import analysis
from analysis.flow_graph import mass_flow
from analysis.tracing.capture import Trace
from tests.numerical.conftest import Case


def with_sink(trace: Trace, pos: int, part: float = 0.8) -> Trace:
    """The same run with ``part`` of all later attention on one position."""
    pattern = trace.pattern.copy()
    for query in range(pos + 1, pattern.shape[2]):
        row = pattern[:, :, query]
        row[..., pos] = 0.0
        row *= (1.0 - part) / row.sum(-1, keepdims=True)
        row[..., pos] = part
    return replace(trace, pattern=pattern, scratch={})


def test_a_position_with_most_attention_is_a_sink(small: Case) -> None:
    assert mass_flow.find(small.trace).positions == ()
    found = mass_flow.find(with_sink(small.trace, 2))
    assert found.positions == (2,)
    assert found.received[2] == pytest.approx(0.8, abs=1e-5)
    mass, paid = 0.0, 0.0
    pattern = with_sink(small.trace, 2).pattern
    for query in range(pattern.shape[2]):
        for key in range(query):
            paid += float(pattern[:, :, query, key].mean())
            mass += float(pattern[:, :, query, key].mean()) if key == 2 else 0.0
    assert found.attention_mass == pytest.approx(mass / paid, abs=1e-5)


def test_a_massive_activation_is_a_sink(small: Case) -> None:
    resid = small.trace.resid.copy()
    resid[1, 4] *= 1000.0
    assert mass_flow.find(replace(small.trace, resid=resid, scratch={})).positions == (4,)


@pytest.mark.real
def test_the_real_models_sink_is_its_first_token(smollm: Case) -> None:
    assert mass_flow.find(smollm.trace).positions == (0,)


def totals(graph: Any) -> dict[str, float]:
    found: dict[str, float] = defaultdict(float)
    for link in graph.links:
        found[link.target] += link.share
    return found


@pytest.mark.parametrize("method", ["proximity", "projection", "norm", "attention", "rollout"])
def test_folded_sinks_change_no_sum(small: Case, method: str) -> None:
    trace = with_sink(small.trace, 2)
    whole = analysis.flow(small.model, trace, method=method)
    graph = analysis.flow(small.model, trace, method=method, fold_sinks=True)
    assert graph.sink_positions == (2,)
    for total in totals(graph).values():
        assert total == pytest.approx(1.0, abs=1e-5)
    assert graph.hidden_share == pytest.approx(0.0, abs=1e-5)
    into = {link.target: link.share for link in graph.links if link.kind == "sink"}
    target = "mid:2:8"
    wanted = sum(k.share for k in whole.links if k.target == target and k.source == "block:2:2")
    assert into[target] == pytest.approx(wanted, abs=1e-6)
    crossing = [k for k in graph.links if k.source_pos == 2 and k.target_pos != 2]
    assert not crossing


def test_a_hidden_start_is_counted_as_hidden(small: Case) -> None:
    trace = with_sink(small.trace, 0)
    whole = analysis.flow(small.model, trace, method="proximity")
    graph = analysis.flow(small.model, trace, hide_start="loss")
    assert graph.hidden_positions == (0,)
    kept = {(k.target, k.source, k.head): k.share for k in whole.links}
    for link in graph.links:
        assert link.share == pytest.approx(kept[link.target, link.source, link.head], abs=1e-6)
        assert link.source_pos != 0 or link.target_pos == 0
    arrived = sum(node.flow for node in graph.nodes if node.row == 0)
    ended = sum(node.flow for node in graph.nodes if node.kind == "bias")
    assert arrived + ended + graph.hidden_share == pytest.approx(1.0, abs=1e-5)
    assert graph.hidden_share > 0.01


def test_a_hidden_start_can_be_reweighted(small: Case) -> None:
    trace = with_sink(small.trace, 0)
    graph = analysis.flow(small.model, trace, hide_start="reweight")
    assert graph.reweighted
    for total in totals(graph).values():
        assert total == pytest.approx(1.0, abs=1e-5)
    assert graph.hidden_share == pytest.approx(0.0, abs=1e-5)
    loss = analysis.flow(small.model, trace, hide_start="loss")
    lost = 1.0 - totals(loss)["mid:2:8"]
    scaled = {(k.target, k.source, k.head): k.share for k in graph.links}
    for link in loss.links:
        if link.target == "mid:2:8":
            wanted = link.share / (1.0 - lost)
            found = scaled[link.target, link.source, link.head]
            assert found == pytest.approx(wanted, abs=1e-5)


def test_an_ordinary_first_token_is_not_dropped(small: Case) -> None:
    assert not small.trace.tokens[0].special
    plain = analysis.flow(small.model, small.trace, method="proximity")
    graph = analysis.flow(small.model, small.trace, hide_start="loss", fold_sinks=True)
    assert graph.hidden_positions == ()
    assert graph.sink_positions == ()
    np.testing.assert_array_equal(graph.link_share, plain.link_share)


def test_a_root_is_never_hidden(small: Case) -> None:
    trace = with_sink(small.trace, 0)
    graph = analysis.flow(
        small.model, trace, position=0, direction="up", hide_start="loss", fold_sinks=True
    )
    assert graph.hidden_positions == ()
    assert any(node.pos == 8 and node.flow > 0 for node in graph.nodes)
