"""Every flow method against slow arithmetic: grouped-query, parallel, post-norm."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import analysis
from analysis.flow_graph import methods
from analysis.flow_graph.options import FLOW_METHODS
from analysis.flow_graph.results import Graph
from analysis.flow_graph.specs import FlowSpec
from analysis.model.handle import Model
from analysis.tracing.capture import Trace
from tests.numerical import flow_reference
from tests.support import built, zoo

TOKENS = (5, 9, 33, 2, 8, 41, 7, 60)
AVERAGED = ("residual_norm", "rollout")
METHODS = sorted(flow_reference.METHODS)


@dataclass(frozen=True)
class Pair:
    """A model with its trace, and the same run by slow arithmetic."""

    model: Model
    trace: Trace
    slow: flow_reference.Slow


@pytest.fixture(scope="module", params=["llama", "phi", "olmo2", "gemma2"])
def pair(request: pytest.FixtureRequest) -> Pair:
    model = built.understood(zoo.make(request.param), request.param)
    slow = flow_reference.forward(zoo.make(request.param).double(), TOKENS)
    return Pair(model, analysis.trace(model, TOKENS), slow)


def key(node: tuple[str, int, int]) -> str:
    return ":".join(str(part) for part in node)


def summed(links: Any, heads: bool) -> dict[Any, np.ndarray]:
    """Links by target and source (and head), summed over equal keys."""
    totals: dict[Any, np.ndarray] = defaultdict(lambda: np.zeros(2))
    for target, source, head, share, flow in links:
        totals[target, source, head if heads else None] += (share, flow)
    return totals


def assert_links(graph: Graph, wanted: dict[Any, tuple[float, float]], heads: bool) -> None:
    inner = [k for k in graph.links if k.kind == "mlp" and k.target.startswith("mlp")]
    assert all(link.share == 1.0 for link in inner)
    rest = [link for link in graph.links if link not in inner]
    found = summed(((k.target, k.source, k.head, k.share, k.flow) for k in rest), heads)
    right = summed(
        ((key(t), key(s), h, *both) for (t, s, h), both in wanted.items() if both[0] > 0), heads
    )
    assert set(found) <= set(right)
    for name, values in right.items():
        np.testing.assert_allclose(found[name], values, atol=2e-5, err_msg=str(name))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("root", [(3, (7,)), (2, (4,)), (3, (3, 5, 7))])
def test_it_equals_brute_force(pair: Pair, method: str, root: Any) -> None:
    row, positions = root
    divide = flow_reference.METHODS[method]
    graph = analysis.flow(pair.model, pair.trace, position=positions, row=row, method=method)
    assert graph.roots == positions
    wanted = flow_reference.down(pair.slow, divide, row, positions)
    assert_links(graph, wanted, heads=method not in AVERAGED)
    assert graph.hidden_share == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("root", [(0, (2,)), (1, (1, 3))])
def test_upward_flow_equals_brute_force(pair: Pair, method: str, root: Any) -> None:
    row, positions = root
    graph = analysis.flow(
        pair.model, pair.trace, position=positions, row=row, method=method, direction="up"
    )
    wanted = flow_reference.up(pair.slow, flow_reference.METHODS[method], row, positions)
    found = {node.key: node.flow for node in graph.nodes}
    for node, part in wanted.items():
        drawn = node[1] >= row and (node[0] != "mlp" or key(node) in found)
        if drawn and part > 0.0:
            assert found.get(key(node), 0.0) == pytest.approx(part, abs=2e-5), node
    assert set(found) <= {key(node) for node, part in wanted.items() if part > 0.0}
    flows = {node.key: node.flow for node in graph.nodes}
    for link in graph.links:
        assert link.flow == pytest.approx(flows[link.source] * link.share, abs=1e-6)
    assert graph.hidden_share == pytest.approx(0.0, abs=1e-5)


def test_every_method_has_a_reference() -> None:
    assert {*METHODS, "signed", "effect"} == set(FLOW_METHODS)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("budget", [5, 20])
def test_shares_and_hidden_mass_sum_to_one(pair: Pair, method: str, budget: int) -> None:
    graph = analysis.flow(pair.model, pair.trace, method=method, budget=budget)
    into: dict[str, float] = defaultdict(float)
    for link in graph.links:
        into[link.target] += link.share
    np.testing.assert_allclose(list(into.values()), 1.0, atol=1e-5)
    arrived = sum(node.flow for node in graph.nodes if node.row == 0)
    total = arrived + graph.terminal_share + graph.hidden_share
    assert total == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("layer", [0, 2])
def test_projections_of_all_parts_sum_to_the_squared_length(pair: Pair, layer: int) -> None:
    queries = torch.arange(len(TOKENS))
    step = methods.attention_step(pair.model, pair.trace, layer, queries, vectors=True)
    inside, y = step.attention, step.whole.double()
    assert inside is not None
    assert inside.factors is not None
    ((weights, vectors),) = inside.factors
    heads = torch.einsum("qd,hkd,hqk->q", y, vectors.double(), weights.double())
    bias = 0.0 if inside.bias is None else (inside.bias.double() * y).sum(-1)
    total = heads + bias + (step.rest.double() * y).sum((0, -1))
    np.testing.assert_allclose(total.numpy(), y.square().sum(-1).numpy(), rtol=1e-5)
    np.testing.assert_allclose(methods.projection(step).total, 1.0, atol=1e-6)


def test_where_every_projection_is_zero_norm_shares_replace_it(pair: Pair) -> None:
    """Parts that cancel: the sum is the zero vector, so every projection is zero."""
    part = torch.ones(1, 1, pair.model.info.d_model)
    rest = torch.cat([part, -part])
    step = methods.Step(rest.sum(0), rest, pair.model.readout)
    shares = methods.projection(step)
    assert shares.fallback.tolist() == [True]
    np.testing.assert_allclose(shares.rest, [[0.5], [0.5]])


def test_upward_and_downward_flow_have_the_same_mass(pair: Pair) -> None:
    """The mass that a root gets from a token equals the mass that the token sends to it."""
    whole = analysis.flow(pair.model, pair.trace, position=6, method="proximity")
    arrived = {node.key: node.flow for node in whole.nodes}
    for pos in (0, 3, 6):
        sent = analysis.flow(pair.model, pair.trace, position=pos, direction="up")
        reached = {node.key: node.flow for node in sent.nodes}
        assert reached["block:3:6"] == pytest.approx(arrived.get(f"block:0:{pos}", 0.0), abs=1e-5)


@pytest.mark.parametrize("foil", [None, 11])
def test_signed_links_are_the_direct_paths(pair: Pair, foil: int | None) -> None:
    graph = analysis.flow(pair.model, pair.trace, position=5, method="signed", token=3, foil=foil)
    wanted = flow_reference.signed(pair.slow, 5, 3, foil)
    found = {(k.kind, k.layer, k.head, k.source_pos): k.share for k in graph.links}
    scale = max(abs(value) for value in wanted.values())
    for name, value in wanted.items():
        assert found.pop(name, 0.0) == pytest.approx(value, abs=2e-5 * scale)
    assert not found
    assert graph.logit == pytest.approx(sum(wanted.values()), abs=2e-5 * scale)
    assert {link.target for link in graph.links} == {"block:3:5"}


@pytest.mark.parametrize(
    "options", [{"threshold": 0.02}, {"top_k": 1}, {"budget": 6}, {"per_head": False, "top_k": 2}]
)
def test_pruned_signed_links_still_sum_to_the_logit(pair: Pair, options: Any) -> None:
    whole = analysis.flow(pair.model, pair.trace, method="signed")
    graph = analysis.flow(pair.model, pair.trace, method="signed", **options)
    assert sum(link.share for link in graph.links) == pytest.approx(graph.logit, abs=1e-4)
    if pair.model.readout.softcap is None:
        assert graph.logit == pytest.approx(float(pair.trace.logits[-1].max()), abs=1e-4)
    assert [link.kind for link in graph.links].count("other") == 1
    assert len(graph.links) <= options.get("budget", 10**9)
    size = sum(abs(link.share) for link in whole.links)
    kept = sum(abs(link.share) for link in graph.links if link.kind != "other")
    if options.get("per_head", True):
        assert graph.hidden_share == pytest.approx(1.0 - kept / size, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "signed", "row": 1}, "last row"),
        ({"method": "signed", "position": (1, 2)}, "one position"),
        ({"method": "signed", "direction": "up"}, "goes down"),
        ({"method": "signed", "token": 3, "foil": 3}, "its own foil"),
        ({"method": "norm", "token": 3}, "does not depend on a token"),
        ({"position": ()}, "no root"),
        ({"position": (1, 1)}, "named twice"),
        ({"direction": "up", "row": -1}, "above the last row"),
        ({"direction": "sideways"}, "direction"),
        ({"hide_start": "yes"}, "start"),
    ],
)
def test_invalid_options_are_refused_with_a_message(pair: Pair, options: Any, words: str) -> None:
    with pytest.raises(analysis.AnalysisError, match=words):
        analysis.flow(pair.model, pair.trace, **options)


@pytest.mark.parametrize("options", [{"threshold": 0.05}, {"top_k": 1}, {"budget": 12}])
def test_pruned_upward_flow_states_its_hidden_mass(pair: Pair, options: Any) -> None:
    whole = analysis.flow(pair.model, pair.trace, position=2, direction="up")
    graph = analysis.flow(pair.model, pair.trace, position=2, direction="up", **options)
    everything = sum(node.flow for node in whole.nodes if node.row == 3)
    drawn = sum(node.flow for node in graph.nodes if node.row == 3)
    assert graph.hidden_share == pytest.approx(1.0 - drawn / everything, abs=1e-5)
    assert 0.0 < graph.hidden_share <= 1.0
    # The root's mass in each drawn node by all links, drawn or not.
    reached = {node.key: node.flow for node in whole.nodes}
    for node, part in zip(graph.nodes, graph.node_whole.tolist(), strict=True):
        if node.kind != "other":
            assert part == pytest.approx(reached[node.key], abs=1e-5)
    entered: dict[str, float] = defaultdict(float)
    shares: dict[str, float] = defaultdict(float)
    for link in graph.links:
        entered[link.target] += link.flow
        shares[link.target] += link.share
    if "budget" in options:
        assert len(graph.links) <= options["budget"]
        for target, part in entered.items():
            assert part == pytest.approx(reached[target], abs=1e-5)
            assert shares[target] == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("position", [0, 2, (1, 3)])
def test_upward_in_shares_omit_only_states_without_root_mass(
    pair: Pair, position: int | tuple[int, ...]
) -> None:
    """The links into a state equal those of the downward graph from that state."""
    graph = analysis.flow(pair.model, pair.trace, position=position, direction="up")
    drawn = {node.key for node in graph.nodes}
    found = {(k.source, k.target, k.head): k.share for k in graph.links}
    for pos in (3, 7):
        below = analysis.flow(pair.model, pair.trace, position=pos, row=2)
        into = [k for k in below.links if k.target == below.links[0].target]
        wanted = {k.source: 0.0 for k in into}
        for k in into:
            wanted[k.source] += k.share
            if k.source in drawn:
                name = (k.source, k.target, k.head)
                assert found[name] == pytest.approx(k.share, abs=2e-5)
        here = sum(k.share for k in graph.links if k.target == f"block:2:{pos}")
        lacking = sum(share for source, share in wanted.items() if source not in drawn)
        assert here + lacking == pytest.approx(1.0, abs=2e-5)
        assert here <= 1.0 + 1e-5


def test_a_parallel_block_has_no_state_between_attention_and_mlp(pair: Pair) -> None:
    """It is absent from the graph and the picture, in both directions."""
    from dash_app.views.flow.link_selection import select

    for options in ({"method": "proximity"}, {"direction": "up", "position": 2}):
        graph = analysis.flow(pair.model, pair.trace, **options)
        middles = {node.key for node in graph.nodes if node.kind == "mid"}
        assert bool(middles) != pair.model.info.parallel_blocks
        drawing = select(graph)
        assert any(link.kind == "mlp" for link in drawing.links)
        kinds = {spot.kind for link in drawing.links for spot in link[:2]}
        assert "mid" not in kinds or not pair.model.info.parallel_blocks


def test_specs_are_hashable_and_have_distinct_keys() -> None:
    listed: Any = [1, 2]
    assert hash(FlowSpec(listed)) == hash(FlowSpec((1, 2)))
    from analysis.contract.specs import cache_key

    assert cache_key("f", FlowSpec((1, 2))) != cache_key("f", FlowSpec((2, 1)))
