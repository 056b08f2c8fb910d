"""The flow graph against one that computes every vector."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

import analysis
from analysis.flow_graph.results import Graph
from tests.numerical import reference
from tests.numerical.conftest import Case


def key(node: tuple[str, int, int]) -> str:
    return ":".join(str(part) for part in node)


def assert_same(graph: Graph, wanted: dict, atol: float) -> None:
    found = {
        (link.target, link.source, link.head): (link.share, link.flow)
        for link in graph.links
        if not (link.kind == "mlp" and link.target.startswith("mlp"))
    }
    expected = {
        (key(target), key(source), head): pair
        for (target, source, head), pair in wanted.items()
        if pair[0] > 0.0
    }
    assert set(found) <= set(expected)
    for name, pair in expected.items():
        np.testing.assert_allclose(found.get(name, (0.0, 0.0)), pair, atol=atol)


@pytest.mark.parametrize("root", [(-1, -1), (2, 4), (1, 0)])
def test_proximity_equals_brute_force(small: Case, root: tuple[int, int]) -> None:
    row, pos = root
    slow = reference.forward(small.model.hf, small.trace.token_ids)
    size = len(small.trace.tokens)
    graph = analysis.flow(small.model, small.trace, position=pos, row=row, method="proximity")
    wanted = reference.flow(slow, row % (small.model.info.layers + 1), pos % size)
    assert_same(graph, wanted, atol=2e-5)


@pytest.mark.real
def test_proximity_on_the_real_model_equals_brute_force(smollm: Case) -> None:
    """Two layers below a middle row, with every vector computed."""
    slow = reference.forward(smollm.model.hf, smollm.trace.token_ids)
    graph = analysis.flow(smollm.model, smollm.trace, position=-1, row=3)
    assert_same(graph, reference.flow(slow, 3, len(smollm.trace.tokens) - 1), atol=2e-4)


def shares_by_target(graph: Graph) -> dict[str, float]:
    totals: dict[str, float] = defaultdict(float)
    for link in graph.links:
        totals[link.target] += link.share
    return totals


@pytest.mark.parametrize("method", ["proximity", "projection", "attention"])
def test_in_shares_sum_to_one_and_no_mass_is_lost(case: Case, method: str) -> None:
    graph = analysis.flow(
        case.model, case.trace, method=method, row=4 if case.model.info.layers > 4 else -1
    )
    for total in shares_by_target(graph).values():
        assert total == pytest.approx(1.0, abs=1e-5)
    arrived = sum(node.flow for node in graph.nodes if node.row == 0)
    ended = sum(node.flow for node in graph.nodes if node.kind in ("bias", "sink"))
    assert arrived + ended + graph.hidden_share == pytest.approx(1.0, abs=1e-5)
    assert graph.hidden_share == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"threshold": 0.05}, {"top_k": 2}, {"top_k": 2, "per_head": False}, {"budget": 20}],
)
def test_pruning_states_its_hidden_mass(case: Case, options: dict) -> None:
    whole = {
        (link.kind, link.target, link.source, link.head): link.share
        for link in analysis.flow(
            case.model, case.trace, method="proximity", per_head=options.get("per_head", True)
        ).links
    }
    graph = analysis.flow(case.model, case.trace, method="proximity", **options)
    arrived = sum(node.flow for node in graph.nodes if node.row == 0)
    ended = sum(node.flow for node in graph.nodes if node.kind in ("bias", "sink"))
    assert arrived + ended + graph.hidden_share == pytest.approx(1.0, abs=1e-5)
    assert 0.0 < graph.hidden_share <= 1.0  # 20 links do not span 30 layers
    flows = {node.key: node.flow for node in graph.nodes}
    for link in (link for link in graph.links if link.kind != "other"):
        # Shares are those of the whole graph: pruning renormalises nothing.
        assert link.share == pytest.approx(
            whole[link.kind, link.target, link.source, link.head], abs=1e-6
        )
        assert link.flow == pytest.approx(flows[link.target] * link.share, abs=1e-6)
        assert link.share > options.get("threshold", 0.0)
    attention: dict[str, int] = defaultdict(int)
    for link in graph.links:
        attention[link.target] += link.kind == "attention"
    assert max(attention.values()) <= options.get("top_k", 10**9)
    assert len(graph.links) <= options.get("budget", 10**9)


@pytest.mark.parametrize("budget", [2, 7, 40])
@pytest.mark.parametrize("position", [-1, (2, 5)])
def test_within_a_budget_other_links_carry_exactly_the_hidden_mass(
    small: Case, budget: int, position: int | tuple[int, int]
) -> None:
    graph = analysis.flow(
        small.model, small.trace, method="proximity", position=position, budget=budget
    )
    others = [link for link in graph.links if link.kind == "other"]
    assert len(graph.links) <= budget
    assert sum(link.flow for link in others) == pytest.approx(graph.hidden_share, abs=1e-5)
    flows = {node.key: node.flow for node in graph.nodes}
    entering = shares_by_target(graph)
    for node in graph.nodes:
        if node.kind in ("block", "mid", "mlp") and node.row != 0:
            assert entering[node.key] == pytest.approx(1.0, abs=1e-5)
    for link in others:
        assert link.flow == pytest.approx(flows[link.target] * link.share, abs=1e-6)
    named = {(link.target, link.kind) for link in others}
    assert len(named) == len(others)  # one for each node


@pytest.mark.parametrize("budget", [3, 12, 40])
@pytest.mark.parametrize("options", [
    {"method": "proximity"}, {"method": "norm"}, {"direction": "up", "row": 0, "position": 0},
    {"direction": "up", "row": 0, "position": 2, "per_head": False},
])  # fmt: skip
def test_a_budget_keeps_connected_links(small: Case, budget: int, options: dict) -> None:
    """A strong link far from the root carries mass only through the weak links above it."""
    graph = analysis.flow(small.model, small.trace, budget=budget, **options)
    assert budget - 1 <= len(graph.links) <= budget  # one more link may need an "other" link too
    reached = {f"block:{graph.row}:{graph.position}"}
    for link in graph.links:
        start, end = (link.source, link.target)
        if graph.direction == "down":
            start, end = end, start
        assert start in reached or link.kind == "other"
        reached.add(end)
    drawn = [link for link in graph.links if link.kind != "other"]
    assert drawn
    assert max(node.flow for node in graph.nodes) <= 1.0 + 1e-6


@pytest.mark.parametrize("budget", [5, 30])
@pytest.mark.parametrize("options", [
    {"method": "norm"}, {"method": "attention", "top_k": 4}, {"method": "proximity"},
    {"method": "norm", "direction": "up", "row": 0, "position": 1},
    {"method": "norm", "per_head": False, "position": (3, 8)},
])  # fmt: skip
def test_a_budget_keeps_the_widest_links_of_the_whole_graph(
    small: Case, budget: int, options: dict
) -> None:
    """Most links are left out while the graph grows; none of them is among the widest."""
    whole = analysis.flow(small.model, small.trace, **options)
    graph = analysis.flow(small.model, small.trace, budget=budget, **options)
    widths, reached = {}, {f"block:{whole.row}:{pos}": np.inf for pos in whole.roots}
    for link in whole.links:
        start, end = link.target, link.source
        if whole.direction == "up":
            start, end = end, start
        name = (link.kind, link.source, link.target, link.head)
        widths[name] = min(link.flow, reached.get(start, 0.0))
        reached[end] = max(reached.get(end, 0.0), widths[name])
    drawn = {
        (link.kind, link.source, link.target, link.head)
        for link in graph.links
        if link.kind != "other"
    }
    assert drawn <= widths.keys()
    narrowest = min(widths[name] for name in drawn)
    assert narrowest > 0.0
    assert all(width <= narrowest + 1e-7 for name, width in widths.items() if name not in drawn)


def test_a_large_budget_cuts_nothing(small: Case) -> None:
    whole = analysis.flow(small.model, small.trace, method="proximity")
    graph = analysis.flow(small.model, small.trace, method="proximity", budget=len(whole.links))
    assert graph.links == whole.links


def test_summed_heads_carry_the_mass_of_single_heads(small: Case) -> None:
    split = analysis.flow(small.model, small.trace, method="proximity")
    summed = analysis.flow(small.model, small.trace, method="proximity", per_head=False)
    totals: dict[tuple[str, str, str], float] = defaultdict(float)
    for link in split.links:
        totals[link.kind, link.target, link.source] += link.share
    for link in summed.links:
        assert link.head is None
        wanted = totals[link.kind, link.target, link.source]
        assert link.share == pytest.approx(wanted, abs=1e-5)


def test_the_attention_method_equals_its_formula(small: Case) -> None:
    trace = small.trace
    graph = analysis.flow(small.model, trace, method="attention", row=2, position=5)
    shares = {(link.target, link.source, link.head): link.share for link in graph.links}
    residual, added = np.linalg.norm(trace.resid[1, 5]), np.linalg.norm(trace.attn_out[1, 5])
    part = added / (residual + added)
    assert shares["mid:1:5", "block:1:5", None] == pytest.approx(1 - part, abs=1e-5)
    for head in range(small.model.info.heads):
        wanted = part * trace.pattern[1, head, 5, 3] / small.model.info.heads
        assert shares["mid:1:5", "block:1:3", head] == pytest.approx(wanted, abs=1e-5)


def test_a_missing_root_is_refused(small: Case) -> None:
    with pytest.raises(analysis.AnalysisError, match="Position 99"):
        analysis.flow(small.model, small.trace, position=99)
    with pytest.raises(analysis.AnalysisError, match="Row 9"):
        analysis.flow(small.model, small.trace, row=9)
    with pytest.raises(analysis.AnalysisError, match="method"):
        analysis.flow(small.model, small.trace, method="guess")
