"""Where every link of an effect graph is measured: against cuts made by hand in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import analysis
from analysis.flow_graph import cuts, effect
from analysis.flow_graph.gradients import Gradients
from analysis.flow_graph.results import Graph, Link
from analysis.model.handle import Model
from tests.numerical.cut_reference import ByHand, make
from tests.support import built

TOKENS = (5, 9, 33, 2, 8, 41)
#: Effects below this part of the logit are lost in float32.
LEAST = 1e-5
#: Sequential, parallel, post-norm, grouped-query, gated, and one whose attention has no interface.
KINDS = ("gpt2", "phi", "gemma2", "qwen3", "llama", "gptj")


def graph_of(model: Model, **options: Any) -> Graph:
    """The default graph of the page after its links are measured."""
    run = analysis.trace(model, TOKENS)
    return analysis.flow(model, run, **{"exact": True, "budget": 4000, **options})


def by_hand(hand: ByHand, link: Link, token: int, before: float) -> float:
    """The effect of a cut in a run with masks and hooks, in float64."""
    if link.kind == "mlp":
        return before - float(hand.mlp(link.layer, link.target_pos, "zero", 1.0)[token])
    heads, query = slice(None) if link.head is None else link.head, link.target_pos
    if query:
        return before - float(hand.edge(link.layer, heads, query, link.source_pos, 1.0)[token])
    values = hand.mixed(link.layer)[0]  # a cut of the only key leaves nothing
    gone = torch.zeros_like(values).view(hand.hf.config.num_attention_heads, -1)
    gone[heads] = -values.view_as(gone)[heads]
    return before - float(hand.moved(link.layer, 0, gone.flatten(), 1.0)[token])


def test_the_kinds_are_what_they_are_called() -> None:
    models = {kind: built.understood(make(kind), kind) for kind in KINDS}
    assert [kind for kind in KINDS if models[kind].info.parallel_blocks] == ["phi", "gptj"]
    assert models["qwen3"].info.kv_heads < models["qwen3"].info.heads
    assert hasattr(make("llama").model.layers[0].mlp, "gate_proj")
    assert hasattr(make("gemma2").model.layers[0], "post_feedforward_layernorm")
    assert models["gptj"].stream.by_hooks


@pytest.mark.parametrize("per_head", [False, pytest.param(True, marks=pytest.mark.full)])
@pytest.mark.parametrize("kind", KINDS)
def test_every_small_effect_has_the_sign_and_size_of_its_cut(kind: str, *, per_head: bool) -> None:
    """Effects of up to 1 % of the logit, all of them: sign right, and size within 5 %."""
    graph = graph_of(built.understood(make(kind), kind), per_head=per_head)
    assert graph.link_measured.all()
    assert graph.hidden_share == 0.0
    hand = ByHand(kind, TOKENS)
    before = float(hand.logits()[graph.token])
    small = 0
    for link in graph.links:
        wanted = by_hand(hand, link, graph.token, before)
        if LEAST * abs(before) < abs(wanted) <= 0.01 * abs(before):
            small += 1
            assert np.sign(link.flow) == np.sign(wanted), link
            assert abs(link.flow - wanted) <= 0.05 * abs(wanted), link
        else:
            assert link.flow == pytest.approx(wanted, rel=1e-3, abs=LEAST * abs(before)), link
    assert small > 10  # else this shows nothing


@pytest.mark.parametrize("kind", KINDS)
def test_no_link_with_an_effect_is_left_out(kind: str) -> None:
    """Each edge and each MLP that the graph has no link for changes nothing."""
    graph = graph_of(built.understood(make(kind), kind), per_head=True)
    found = by_place(graph).keys()
    hand, size, config = ByHand(kind, TOKENS), len(TOKENS), make(kind).config
    before = float(hand.logits()[graph.token])
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    places: list[tuple[str, int, int | None, int, int]] = [
        ("attention", layer, head, key, query)
        for layer, head, query, key in np.ndindex(layers, heads, size, size)
        if key <= query
    ]
    places += [("mlp", layer, None, pos, pos) for layer, pos in np.ndindex(layers, size)]
    assert found < set(places)
    for place in set(places) - found:
        wanted = by_hand(hand, Link(*place, "", "", 0.0, 0.0), graph.token, before)
        assert abs(wanted) <= LEAST * abs(before), place


def by_place(graph: Graph) -> dict[tuple[Any, ...], float]:
    """The effect of each link by kind, layer, head, source and target position."""
    return {
        (one.kind, one.layer, one.head, one.source_pos, one.target_pos): one.flow
        for one in graph.links
    }


def test_links_without_a_gradient_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a softmax or a gate saturates, the estimate is 0 and the effect need not be."""
    model = built.understood(make("llama"), "llama")
    wanted = by_place(graph_of(model))
    own = effect.gradients

    def none(*args: Any) -> Gradients:
        found = own(*args)
        mixed = {layer: torch.zeros_like(one) for layer, one in found.mixed.items()}
        return Gradients(mixed, torch.zeros_like(found.mlp), torch.zeros_like(found.removed))

    monkeypatch.setattr(effect, "gradients", none)
    found = by_place(graph_of(model))
    size = LEAST * max(map(abs, wanted.values()))
    assert len(found) > 50
    for name, value in wanted.items():
        assert found.get(name, 0.0) == pytest.approx(value, abs=10 * size), name


def test_a_graph_that_costs_more_is_cut_by_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built.understood(make("gpt2"), "gpt2")
    weights = sum(weight.numel() for weight in model.hf.parameters())
    estimates = len(graph_of(model, exact=False).links)
    cost = estimates * len(TOKENS) * weights
    monkeypatch.setattr(cuts, "ALL_WITHIN", cost)
    assert graph_of(model).link_measured.all()
    monkeypatch.setattr(cuts, "ALL_WITHIN", cost - 1)
    marks = graph_of(model).link_measured
    assert 0 < marks.sum() < len(marks)
    monkeypatch.setattr(cuts, "ALL_WITHIN", cost)
    monkeypatch.setattr(cuts, "ALL_CUTS", estimates - 1)
    assert not graph_of(model).link_measured.all()
