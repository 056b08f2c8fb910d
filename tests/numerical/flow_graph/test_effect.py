"""The method effect against cuts made by hand, whole and in small parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

import analysis
from analysis import codec
from analysis.attribution.direct import Target
from analysis.flow_graph import causal_check, cuts, gradients
from analysis.flow_graph.results import LINK_KINDS, Graph, Link
from analysis.flow_graph.specs import CausalSpec, FlowSpec
from analysis.model.handle import Model
from analysis.tracing.capture import Trace
from analysis.tracing.interventions import Ablate, KnockOut
from tests.numerical.cut_reference import ByHand, make
from tests.support import built, zoo

TOKENS = (5, 9, 33, 2, 8, 41, 7, 60)
LAST = len(TOKENS) - 1
#: Sequential, grouped-query and gated MLP, query and key norms, parallel, post-norms, no interface;
#: gated attention, twice; a norm over the heads; a learned sink in the softmax, and after it.
FAMILIES = (
    *("gpt2", "llama", "qwen3", "phi", "gemma2", "gptj"),
    *("qwen3_next", "afmoe", "bitnet", "gpt_oss", "granite_swa"),
)
TOKEN, FOIL = 4, 9
#: A second prompt. The first differs from it at one position.
SECOND, DIFFERS = "abcdef", 3


class Case(NamedTuple):
    """A model, a run of it, and the same model cut by hand."""

    model: Model
    run: Trace
    hand: ByHand

    def graph(self, **options: Any) -> Graph:
        """An effect graph of every link; badly estimated ones are cut unless ``exact`` is given."""
        chosen = {"token": TOKEN, "foil": FOIL, "exact": True, **options}
        return analysis.flow(self.model, self.run, method="effect", **chosen)


@pytest.fixture(autouse=True)
def rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not cut every link, as these models are small enough for (``test_all_cut``)."""
    monkeypatch.setattr(cuts, "ALL_CUTS", 0)


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest) -> Case:
    model = built.understood(make(request.param), request.param)
    return Case(model, analysis.trace(model, TOKENS), ByHand(request.param, TOKENS))


def lead(logits: Tensor) -> float:
    """The target of these tests."""
    return float(logits[TOKEN] - logits[FOIL])


def slope(cut: Callable[[float], Tensor]) -> float:
    """What a whole cut would cost if all of it cost as much as its first part."""
    step = 1e-4
    return (lead(cut(-step)) - lead(cut(step))) / (2 * step)


def some(links: list[Link], count: int) -> list[Link]:
    """Links over the whole range of effects, from the largest to the smallest."""
    if not links:
        return []
    ordered = sorted(links, key=lambda link: -abs(link.flow))
    places = np.unique(np.linspace(0, len(ordered) - 1, count).astype(int))
    return [ordered[place] for place in places]


def by_hand(hand: ByHand, link: Link, value: str = "zero") -> Callable[[float], Tensor]:
    """The logits with a part of a link cut."""
    if link.kind == "mlp":
        return lambda part: hand.mlp(link.layer, link.target_pos, value, part)
    head = link.head or 0
    place = (link.layer, head, link.target_pos, link.source_pos)
    return lambda part: hand.edge(*place, part)


def test_an_edges_estimate_is_the_slope_of_its_cut(case: Case) -> None:
    edges = [
        link
        for link in case.graph(exact=False).links
        if link.kind == "attention" and link.target_pos > 0
    ]
    for link in some(edges, 24):
        wanted = slope(by_hand(case.hand, link))
        assert link.flow == pytest.approx(wanted, rel=2e-4, abs=2e-6), link


@pytest.mark.parametrize("value", ["zero", "mean"])
def test_an_mlps_estimate_is_the_slope_of_its_cut(case: Case, value: str) -> None:
    graph = case.graph(exact=False, baseline=value)
    mlps = [link for link in graph.links if link.kind == "mlp"]
    assert {link.layer for link in mlps} == set(range(case.model.info.layers))
    for link in some(mlps, 10):
        wanted = slope(by_hand(case.hand, link, value))
        assert link.flow == pytest.approx(wanted, rel=2e-4, abs=2e-6), link


@pytest.mark.parametrize("value", ["zero", "mean"])
def test_mlps_with_large_changes_or_at_the_root_are_measured(case: Case, value: str) -> None:
    graph = case.graph(baseline=value)
    assert graph.baseline == value
    measured = [link for link in graph.links if link.measured and link.kind == "mlp"]
    output = case.run.mlp_out
    change = output - (output.mean(1, keepdims=True) if value == "mean" else 0.0)
    half = 0.5 * np.linalg.norm(case.run.resid[1:], axis=-1)
    long = (np.linalg.norm(output, axis=-1) > half) | (np.linalg.norm(change, axis=-1) > half)
    long[:, LAST] = True
    found = {(link.layer, link.target_pos) for link in measured}
    assert found == {(layer, pos) for layer, pos in np.argwhere(long).tolist()} & {
        (link.layer, link.target_pos) for link in graph.links if link.kind == "mlp"
    }
    before = lead(case.hand.logits())
    for link in some(measured, 6):
        wanted = before - lead(by_hand(case.hand, link, value)(1.0))
        assert link.flow == pytest.approx(wanted, rel=1e-3, abs=1e-5), link


def test_measured_edges_have_the_effect_of_their_cut(case: Case) -> None:
    before, links = lead(case.hand.logits()), case.graph().links
    measured = [link for link in links if link.measured and link.kind == "attention"]
    for link in some(measured, 8):
        wanted = before - lead(by_hand(case.hand, link)(1.0))
        assert link.flow == pytest.approx(wanted, rel=1e-3, abs=1e-5), link


@pytest.mark.parametrize("family", ["gpt2", "llama", "phi", "gptj", "gpt_oss"])
@pytest.mark.parametrize("per_head", [True, False])
def test_edges_whose_cut_moves_the_state_far_are_measured(family: str, per_head: bool) -> None:
    """Against the attention output of a run with the edge knocked out."""
    model = built.understood(make(family), family)
    run = analysis.trace(model, TOKENS)
    graph = analysis.flow(model, run, method="effect", per_head=per_head, exact=True)
    edges = [link for link in graph.links if link.kind == "attention" and link.target_pos]
    marks = []
    for link in [*[one for one in edges if one.measured][:12], *edges[:: len(edges) // 24]]:
        layer, query = link.layer, link.target_pos
        knocked = [KnockOut(layer, link.head, query, link.source_pos)]
        without = analysis.trace(model, TOKENS, knocked).attn_out[layer, query]
        change = np.linalg.norm(run.attn_out[layer, query] - without)
        whole = run.resid[layer + 1] if model.info.parallel_blocks else run.middle(layer)
        share = change / np.linalg.norm(whole[query])
        if abs(share - 0.3) > 1e-4:  # else rounding decides
            assert link.measured == (share > 0.3), (link, share)
            marks.append(link.measured)
    assert len(marks) > 12


def test_small_parts_of_a_cut_have_the_estimates_sign_and_size(case: Case) -> None:
    """Within 5 %; and half the part has a quarter of the error, so no first-order term is left."""
    edges = [link for link in case.graph(exact=False).links if link.kind == "attention"]
    typical = float(np.median([abs(link.flow) for link in edges]))
    before = lead(case.hand.logits())
    for link in some([one for one in edges if one.target_pos and abs(one.flow) >= typical], 12):
        cut = by_hand(case.hand, link)
        errors = [abs(before - lead(cut(part)) - part * link.flow) for part in (2e-3, 1e-3)]
        assert errors[1] <= 0.05 * 1e-3 * abs(link.flow), link
        assert errors[1] <= 0.3 * errors[0] + 1e-7 * abs(link.flow), link


def test_a_single_key_has_its_heads_whole_output_as_its_effect(case: Case) -> None:
    """Position 0 attends to itself alone, so a cut leaves its heads nothing."""
    edges = [
        link
        for link in case.graph(exact=False).links
        if link.kind == "attention" and link.target_pos == 0
    ]
    # The last row's root is at the last position, so the last layer's first one is not read.
    assert bool(edges) == any(block.heads for block in case.model.stream.blocks[:-1])
    for link in some(edges, 6):
        head, size = link.head or 0, case.model.stream.blocks[link.layer].d_head
        change = torch.zeros_like(case.hand.mixed(link.layer)[0])
        part = slice(head * size, (head + 1) * size)
        change[part] = -case.hand.mixed(link.layer)[0, part]
        wanted = slope(lambda part, at=link.layer, by=change: case.hand.moved(at, 0, by, part))
        assert link.flow == pytest.approx(wanted, rel=2e-4, abs=2e-6), link


def test_heads_together_have_the_sum_of_their_estimates(case: Case) -> None:
    def summed(graph: Graph) -> dict[Any, float]:
        found: dict[Any, float] = {}
        for link in graph.links:
            key = (link.kind, link.layer, link.source_pos, link.target_pos)
            found[key] = found.get(key, 0.0) + link.flow
        return found

    apart, together = (summed(case.graph(exact=False, per_head=one)) for one in (True, False))
    assert apart.keys() == together.keys()
    for key, value in together.items():
        assert apart[key] == pytest.approx(value, rel=1e-4, abs=1e-6)


def test_resampled_edges_and_mlps_move_to_the_second_prompt(case: Case) -> None:
    second = analysis.trace(case.model, SECOND)
    tokens, first = both_prompts(case.model)
    run, hand = analysis.trace(case.model, first), ByHand(case.hand.family, first)
    graph = analysis.flow(
        case.model, run, method="effect", token=TOKEN, foil=FOIL, baseline="resample",
        prompts=(SECOND,), exact=False,
    )  # fmt: skip
    # Before that position the prompts are equal, so nothing there differs.
    found = {link.target_pos for link in graph.links if abs(link.flow) > 1e-6}
    assert found == set(range(DIFFERS, len(tokens)))
    goal = ByHand(case.hand.family, tokens)
    edges = [link for link in graph.links if link.kind == "attention" and abs(link.flow) > 1e-4]
    for link in some(edges, 8):
        change = moved_by_edge(goal, second, link) - moved_by_edge(hand, run, link)
        wanted = slope(
            lambda part, at=link, by=change: hand.moved(at.layer, at.target_pos, by, part)
        )
        assert link.flow == pytest.approx(wanted, rel=1e-3, abs=5e-6), link
    for link in some([link for link in graph.links if link.kind == "mlp"], 3):
        states = [
            torch.from_numpy(one.mlp_out[link.layer, link.target_pos]) for one in (run, second)
        ]
        wanted = slope(
            lambda part, at=link, by=states: hand.added(
                at.layer, at.target_pos, by[1] - by[0], part
            )
        )
        assert link.flow == pytest.approx(wanted, rel=1e-3, abs=5e-6), link


def test_a_resampled_edge_that_is_cut_moves_what_the_second_prompt_moves(case: Case) -> None:
    tokens, first = both_prompts(case.model)
    run = analysis.trace(case.model, first)
    flow = FlowSpec(
        method="effect", token=TOKEN, foil=FOIL, baseline="resample", prompts=(SECOND,), budget=12
    )
    check = causal_check.compute(case.model, run, CausalSpec(flow))
    edges = LINK_KINDS.index("attention")
    assert edges in check.kind
    hand = ByHand(case.hand.family, first)
    goal, second = ByHand(case.hand.family, tokens), analysis.trace(case.model, SECOND)
    before = lead(hand.logits())
    for number in np.flatnonzero(check.kind == edges)[:5].tolist():
        link = Link(
            "attention", int(check.layer[number]), int(check.head[number]),
            int(check.source_pos[number]), int(check.target_pos[number]), "", "", 0.0, 0.0,
        )  # fmt: skip
        change = moved_by_edge(goal, second, link) - moved_by_edge(hand, run, link)
        wanted = before - lead(hand.moved(link.layer, link.target_pos, change, 1.0))
        assert check.effect[number] == pytest.approx(wanted, rel=1e-3, abs=1e-5)


def both_prompts(model: Model) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Token ids of the second prompt, and of a first one that differs at one position."""
    tokens = tuple(token.id for token in analysis.trace(model, SECOND).tokens)
    changed = (tokens[DIFFERS] + 1) % 90
    return tokens, (*tokens[:DIFFERS], changed, *tokens[DIFFERS + 1 :])


def moved_by_edge(hand: ByHand, run: Trace, link: Link) -> Tensor:
    """[width] weight times value, in its head's place. The value is what is left with one key."""
    weight = float(run.pattern[link.layer, link.head, link.target_pos, link.source_pos])
    vector = hand.value(link.layer, link.head or 0, link.target_pos, link.source_pos)
    return weight * vector


def test_the_kl_target_is_the_slope_of_the_kl() -> None:
    model = built.understood(zoo.make("llama"), "llama")
    tokens, first = both_prompts(model)
    run, hand = analysis.trace(model, first), ByHand("llama", first)
    goal = torch.log_softmax(ByHand("llama", tokens).logits(), -1)

    def minus_kl(logits: Tensor) -> float:
        return -float((goal.exp() * (goal - torch.log_softmax(logits, -1))).sum())

    graph = analysis.flow(
        model,
        run,
        method="effect",
        target="kl",
        baseline="resample",
        prompts=(SECOND,),
        exact=False,
    )
    assert graph.logit == pytest.approx(minus_kl(hand.logits()), rel=1e-4)
    second = analysis.trace(model, SECOND)
    for link in some([link for link in graph.links if link.kind == "mlp"], 3):
        by = [torch.from_numpy(one.mlp_out[link.layer, link.target_pos]) for one in (run, second)]
        ends = [
            hand.added(link.layer, link.target_pos, by[1] - by[0], part) for part in (-1e-4, 1e-4)
        ]
        wanted = (minus_kl(ends[0]) - minus_kl(ends[1])) / 2e-4
        assert link.flow == pytest.approx(wanted, rel=1e-3, abs=5e-6)


def test_a_reference_mean_is_over_all_positions_of_its_prompts() -> None:
    model = built.understood(zoo.make("llama"), "llama")
    run, hand = analysis.trace(model, TOKENS), ByHand("llama", TOKENS)
    texts = ("cat", "mouse")
    mean = np.concatenate([analysis.trace(model, text).mlp_out for text in texts], 1).mean(1)
    graph = analysis.flow(
        model, run, method="effect", token=TOKEN, foil=FOIL, baseline="reference", prompts=texts,
        exact=False,
    )  # fmt: skip
    for link in some([link for link in graph.links if link.kind == "mlp"], 5):
        change = torch.from_numpy(mean[link.layer] - run.mlp_out[link.layer, link.target_pos])
        wanted = slope(
            lambda part, at=link, by=change: hand.added(at.layer, at.target_pos, by, part)
        )
        assert link.flow == pytest.approx(wanted, rel=1e-3, abs=5e-6)


def test_pruning_keeps_the_strongest_and_says_what_is_hidden(case: Case) -> None:
    whole = case.graph(exact=False)
    sizes = np.sort(np.abs(whole.link_flow.astype(np.float64)))[::-1]
    assert whole.hidden_share == 0.0
    few = case.graph(exact=False, budget=20)
    np.testing.assert_allclose(np.sort(np.abs(few.link_flow))[::-1], sizes[:20], rtol=1e-6)
    assert few.hidden_share == pytest.approx(sizes[20:].sum() / sizes.sum(), rel=1e-5)
    large = case.graph(exact=False, threshold=0.01)
    assert len(large.links) == int((sizes > 0.01 * sizes.sum()).sum()) > 0
    two = case.graph(exact=False, top_k=2)
    at: dict[tuple[int, int], int] = {}
    for link in two.links:
        if link.kind == "attention":
            at[link.layer, link.target_pos] = at.get((link.layer, link.target_pos), 0) + 1
    assert max(at.values()) == 2


def test_a_root_before_the_end_sees_only_what_comes_before_it(case: Case) -> None:
    graph = case.graph(exact=False, position=4)
    short = case.model, analysis.trace(case.model, TOKENS[:5])
    alone = analysis.flow(*short, method="effect", token=TOKEN, foil=FOIL, exact=False)
    assert (graph.position, graph.logit) == (4, pytest.approx(alone.logit, abs=1e-5))
    np.testing.assert_allclose(graph.link_flow, alone.link_flow, rtol=1e-3, atol=1e-6)


def test_interventions_of_the_run_stay_in_force(case: Case) -> None:
    ablated = analysis.trace(case.model, TOKENS, [Ablate("mlp_output", 1)])
    graph = analysis.flow(case.model, ablated, method="effect", token=TOKEN, foil=FOIL, exact=False)
    assert not [link for link in graph.links if link.kind == "mlp" and link.layer == 1]

    with case.hand.changed_mlp(1, torch.zero_):
        assert graph.logit == pytest.approx(lead(case.hand.logits()), abs=1e-4)
        for link in some(
            [link for link in graph.links if link.kind == "attention" and link.target_pos], 6
        ):
            assert link.flow == pytest.approx(slope(by_hand(case.hand, link)), rel=1e-3, abs=5e-6)


@pytest.mark.parametrize("edited", [False, True])
def test_scores_that_are_computed_again_give_the_same_bits(
    case: Case, edited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = [bool(block.heads) for block in case.model.stream.blocks]
    edits = (KnockOut(heads.index(True), 0, 5, 2), Ablate("mlp_output", 1))
    run = analysis.trace(case.model, TOKENS, edits if edited else ())
    target = Target(LAST, TOKEN)
    saved = gradients.gradients(case.model, run, target)
    monkeypatch.setattr(gradients, "RECOMPUTE_ABOVE", 0)
    again = gradients.gradients(case.model, run, target)
    assert saved.mixed.keys() == again.mixed.keys()
    for layer, gradient in saved.mixed.items():
        assert torch.equal(gradient, again.mixed[layer])
    assert torch.equal(saved.mlp, again.mlp)
    assert torch.equal(saved.removed, again.removed)


def test_the_check_of_an_effect_graph_measures_against_its_baseline(case: Case) -> None:
    flow = FlowSpec(
        method="effect", token=TOKEN, foil=FOIL, baseline="mean", budget=25, exact=False
    )
    check = causal_check.compute(case.model, case.run, CausalSpec(flow))
    before = lead(case.hand.logits())
    assert len(check.kind) + check.without_cut == 25
    for number in range(0, len(check.kind), 4):
        kind, layer, head, source, end = (
            int(column[number])
            for column in (check.kind, check.layer, check.head, check.source_pos, check.target_pos)
        )
        link = Link(LINK_KINDS[kind], layer, head, source, end, "", "", 0.0, 0.0)
        wanted = before - lead(by_hand(case.hand, link, "mean")(1.0))
        assert check.effect[number] == pytest.approx(wanted, rel=1e-3, abs=2e-5)
    assert check.correlation == pytest.approx(causal_check.spearman(check.flow, check.effect))


def test_a_graph_survives_encoding(case: Case) -> None:
    graph = case.graph(budget=10)
    again = codec.decode(codec.encode(graph))
    assert again.links == graph.links
    assert again.baseline == "zero"
