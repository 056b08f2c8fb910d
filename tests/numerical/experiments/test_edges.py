"""Edges against cuts made by hand, on models of every kind of block."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import analysis
from analysis.errors import SpecError
from analysis.experiments.component_layout import Lead
from analysis.experiments.component_specs import ComponentGraph, ComponentGraphSpec
from analysis.experiments.edge_runs import EdgeRuns
from analysis.model.handle import Model
from tests.numerical.experiments.edges_by_hand import (
    ANSWER,
    CLEAN,
    CORRUPTED,
    FOIL,
    ByHand,
    Loops,
    lead,
    make,
)
from tests.support import built, every_architecture, zoo

#: Sequential, gated MLP, query and key norms, parallel, post-norms, norms only after, a factor of
#: what is written, learned sinks and experts.
FAMILIES = ("gpt2", "llama", "qwen3", "phi", "gemma2", "olmo2", "granite", "gpt_oss")
#: Shared keys and values, a gate after the heads, and norms before and after.
OTHERS = ("llama", "mistral", "afmoe", "gemma3_text")


class Case(NamedTuple):
    """A model, the same model cut by hand, and its graph with every edge."""

    model: Model
    hand: ByHand
    graph: ComponentGraph


def graph_of(model: Model, **options: Any) -> ComponentGraph:
    """The component graph of the two prompts."""
    return analysis.component_graph(
        model, CLEAN, CORRUPTED, answer=ANSWER, foil=FOIL, **{"curve": False, **options}
    )


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest) -> Case:
    model = built.understood(make(request.param), request.param)
    return Case(model, ByHand(request.param, model), graph_of(model, edges=5000))


def named(graph: ComponentGraph, edge: int) -> tuple[str, str, int]:
    """Sender, receiver and position of an edge."""
    return (
        graph.senders[graph.edge_sender[edge]],
        graph.receivers[graph.edge_receiver[edge]],
        int(graph.edge_pos[edge]),
    )


def chosen(graph: ComponentGraph) -> list[int]:
    """For each kind of receiver, three edges over the range of effects."""
    kinds: dict[str, list[int]] = {}
    for edge in np.argsort(-np.abs(graph.edge_effect)).tolist():
        words = named(graph, edge)[1].split()
        kinds.setdefault(words[-1] if words[0] == "head" else words[0], []).append(edge)
    assert set(kinds) == {"query", "key", "value", "mlp", "answer"}
    return [edges[at] for edges in kinds.values() for at in (0, len(edges) // 8, len(edges) // 3)]


def test_an_estimate_is_the_slope_of_a_cut_by_hand(case: Case) -> None:
    largest = float(np.abs(case.graph.edge_effect).max())
    for edge in chosen(case.graph):
        where, step = named(case.graph, edge), 1e-4
        slope = (case.hand.cut(*where, -step) - case.hand.cut(*where, step)) / (2 * step)
        found = float(case.graph.edge_effect[edge])
        assert found == pytest.approx(slope, rel=2e-3, abs=2e-5 * largest), where


def test_a_measured_edge_is_the_cut_by_hand(case: Case) -> None:
    measured = graph_of(case.model, edges=40, measured=12)
    assert int(measured.edge_measured.sum()) == 12
    whole = lead(case.hand.logits())
    assert measured.full_value == pytest.approx(whole, rel=1e-4, abs=1e-5)
    for edge in np.flatnonzero(measured.edge_measured).tolist():
        effect = whole - case.hand.cut(*named(measured, edge))
        found = float(measured.edge_effect[edge])
        assert found == pytest.approx(effect, rel=1e-3, abs=1e-4), named(measured, edge)


def model_of(family: str) -> Model:
    """A model of a family with its own numbers of keys."""
    hf = zoo.make(family) if family in zoo.CONFIGS else every_architecture.make(family)
    return built.understood(hf, family)


@pytest.mark.parametrize("family", [*OTHERS, "phi", "gpt2"])
def test_all_edges_give_the_plain_run_and_none_the_corrupted_one(family: str) -> None:
    model = model_of(family)
    runs = EdgeRuns(model, CLEAN, CORRUPTED, "resample")
    every, nothing = runs.layout.all_edges(len(CLEAN)), np.zeros(0, np.int64)
    rng = np.random.default_rng(0)
    half = np.sort(rng.choice(every, len(every) // 2, replace=False))
    rest = np.setdiff1d(every, half)
    kept = runs.values([every, nothing, half], Lead(ANSWER, FOIL), keep=True)
    cut = runs.values([nothing, every, rest], Lead(ANSWER, FOIL), keep=False)
    plain, corrupted = (lead(built.plain_logits(model, ids)[-1]) for ids in (CLEAN, CORRUPTED))
    size = max(abs(plain), abs(corrupted))
    wanted = np.array([plain, corrupted])
    np.testing.assert_allclose(kept[:2], wanted, rtol=1e-5, atol=1e-5 * size)
    np.testing.assert_allclose(cut[:2], wanted, rtol=1e-5, atol=1e-5 * size)
    np.testing.assert_allclose(kept[2], cut[2], rtol=1e-4, atol=1e-4 * size)
    assert abs(kept[2] - plain) > 1e-3 * size  # the half is another run
    assert runs.error < 1e-5


@pytest.mark.parametrize("ablation", ["resample", "mean", "zero"])
def test_runs_of_graphs_are_those_of_a_llama_in_loops(ablation: str) -> None:
    hf = zoo.make("llama")  # with shared keys and values, and biases
    model = built.understood(hf, "llama")
    other = CORRUPTED if ablation == "resample" else None
    runs = EdgeRuns(model, CLEAN, other, ablation)
    _, sent = Loops(hf, lambda *_edge: True, {}).run(CORRUPTED if other else CLEAN)
    ablated = {name: state.clone() for name, state in sent.items()}
    if ablation != "resample":
        factor = 1.0 if ablation == "mean" else 0.0
        ablated = {
            name: factor * state.mean(0, keepdim=True).expand_as(state)
            for name, state in sent.items()
        }
    every, rng = runs.layout.all_edges(len(CLEAN)), np.random.default_rng(4)
    graphs = [np.sort(rng.choice(every, size, replace=False)) for size in (0, 40, len(every) // 2)]
    found = runs.last_states(graphs, keep=True)
    logits = runs.calls.logits_of(found).numpy()
    for number, graph in enumerate(graphs):
        receivers, senders, places = runs.layout.split(graph, len(CLEAN))
        kept = {
            (runs.layout.receivers[r].name, runs.layout.senders[s].name, int(p))
            for r, s, p in zip(receivers, senders, places, strict=True)
        }
        wanted, _ = Loops(hf, lambda *edge: edge in kept, ablated).run(CLEAN)  # noqa: B023
        np.testing.assert_allclose(logits[number], wanted.numpy(), rtol=1e-3, atol=2e-4)


def test_the_curve_starts_at_the_strongest_edges_and_ends_at_one() -> None:
    model = model_of("llama")
    graph = graph_of(model, edges=60, curve=True, draws=2)
    assert graph.sizes[-1] == graph.possible
    assert graph.kept[-1] == pytest.approx(1.0, abs=1e-5)
    assert graph.random.shape == (len(graph.sizes), 2)
    few = graph.sizes <= 60
    assert few.any()
    for size, kept in zip(graph.sizes[few], graph.kept[few], strict=True):
        edges = slice(0, graph.count(int(size)))
        runs = EdgeRuns(model, CLEAN, CORRUPTED, "resample")
        codes = runs.layout.code(
            graph.edge_receiver[edges], graph.edge_sender[edges], graph.edge_pos[edges], len(CLEAN)
        )
        value = runs.values([np.sort(codes)], Lead(ANSWER, FOIL), keep=True)[0]
        share = (value - graph.empty_value) / (graph.full_value - graph.empty_value)
        assert share == pytest.approx(kept, abs=1e-4)
    assert graph.area >= 0.0
    shares = np.concatenate([[0.0], graph.sizes / graph.possible])
    wanted = np.trapezoid(np.concatenate([[1.0], np.abs(1 - graph.kept)]), shares)
    assert graph.distance == pytest.approx(float(wanted), rel=1e-6)


def test_summed_positions_say_what_cancels() -> None:
    model = model_of("gpt2")
    apart, summed = graph_of(model, edges=5000), graph_of(model, positions="sum", edges=5000)
    assert apart.cancelled == 0.0
    assert (summed.edge_pos == -1).all()
    totals: dict[tuple[int, int], float] = {}
    edges = zip(apart.edge_sender, apart.edge_receiver, apart.edge_effect, strict=True)
    for sender, receiver, effect in edges:
        totals[sender, receiver] = totals.get((sender, receiver), 0.0) + float(effect)
    for sender, receiver, effect in zip(
        summed.edge_sender, summed.edge_receiver, summed.edge_effect, strict=True
    ):
        assert float(effect) == pytest.approx(totals[sender, receiver], rel=1e-3, abs=1e-4)
    lost = 1 - sum(map(abs, totals.values())) / float(np.abs(apart.edge_effect).sum())
    assert summed.cancelled == pytest.approx(lost, rel=1e-2, abs=1e-3)


def test_an_integrated_score_averages_gradients_between_the_embeddings() -> None:
    model = model_of("gpt2")
    plain, averaged = graph_of(model, edges=40), graph_of(model, edges=40, score="integrated")
    assert averaged.full_value == plain.full_value
    assert not np.allclose(plain.edge_effect[:10], averaged.edge_effect[:10])
    # To the answer, the gradient's mean over equal steps: by hand, from the final norm alone.
    runs = EdgeRuns(model, CLEAN, CORRUPTED, "resample")
    edge = next(n for n in range(40) if named(averaged, n)[1] == "answer")
    sender = int(averaged.edge_sender[edge])
    moved = (runs.clean.senders - runs.ablated)[sender, -1]
    start, end = (torch.from_numpy(analysis.trace(model, ids).resid[0])
                  for ids in (CORRUPTED, CLEAN))  # fmt: skip
    total = 0.0
    for step in range(1, 6):
        state = _last_state(model, start + step / 5 * (end - start)).requires_grad_()
        logits = runs.calls.logits_of(state[None])[0]
        (gradient,) = torch.autograd.grad(logits[ANSWER] - logits[FOIL], state)
        total += float(gradient @ moved) / 5
    assert float(averaged.edge_effect[edge]) == pytest.approx(total, rel=1e-3)


def _last_state(model: Model, embedding: torch.Tensor) -> torch.Tensor:
    """The last state at the last position of a run on another embedding of a GPT-2."""
    kept: list[torch.Tensor] = []
    blocks = model.hf.transformer.h
    handles = [
        blocks[0].register_forward_pre_hook(lambda _m, args: (embedding[None], *args[1:])),
        model.hf.transformer.ln_f.register_forward_pre_hook(
            lambda _m, args: kept.append(args[0][0, -1])
        ),
    ]
    with torch.no_grad():
        model.hf(input_ids=torch.tensor([CLEAN]), use_cache=False)
    for handle in handles:
        handle.remove()
    return kept[0]


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("gptj", "observed with hooks"),
        ("jamba", "something other than heads and an MLP"),
        ("bitnet", "A norm joins the heads"),
    ],
)
def test_a_model_without_separate_senders_is_refused(family: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        graph_of(model_of(family))


def test_requests_that_do_not_fit_together_are_refused() -> None:
    model = model_of("gpt2")
    for options, words in (
        ({"corrupted": CORRUPTED[:-1]}, "7 and 6 tokens"),
        ({"corrupted": None}, "The corrupted prompt is empty"),
        ({"edges": 0}, "The number of edges can't be 0"),
        ({"measured": 99, "edges": 20}, "measured edges can't be 99"),
        ({"answer": 4, "foil": 4}, "The foil is the same token"),
        ({"ablation": "noise"}, "noise"),
    ):
        given: dict[str, Any] = {"clean": CLEAN, "corrupted": CORRUPTED, **options}
        with pytest.raises(SpecError, match=words):
            analysis.component_graph(model, **given)
    with pytest.raises(SpecError, match="The clean prompt is empty"):
        ComponentGraphSpec("m", "", "b")
