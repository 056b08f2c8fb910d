"""Readings of a run with interventions describe that run, or are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import analysis
from analysis import ledger
from analysis.contract.ledger import LedgerSpec
from analysis.errors import SpecError
from analysis.flow_graph.options import FLOW_METHODS
from analysis.flow_graph.specs import NeuronSpec
from analysis.interventions import Ablate, Inject, KnockOut, Patch, Steer
from analysis.model.handle import Model
from analysis.tracing.capture import Trace
from tests.numerical.conftest import Case
from tests.support import built, zoo

#: Models with a post-norm, with parallel blocks, with sinks, with multipliers, with attention
#: that is observed with hooks.
KINDS = ("gpt2", "gemma2", "gpt_neox", "gpt_oss", "granite", "gptj")
PUSH = 0.5


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> Model:
    return built.understood(zoo.make(request.param), request.param)


def run(model: Model, *interventions: Any) -> Trace:
    return analysis.trace(model, [5, 80, 33, 12, 60, 41, 7, 22], interventions)


def require_ledger(model: Model, trace: Trace) -> dict[int, str]:
    """Check the run's ledger at two positions; the notes by number."""
    for position in (3, -1):
        found = ledger.check_run(model, trace, LedgerSpec(position))
        assert all(entry.passed for entry in found.entries), found
    return {entry.number: entry.note for entry in found.entries}


@pytest.mark.parametrize("value", ["zero", "mean"])
@pytest.mark.parametrize("pos", [None, (-1, 3)])
def test_an_ablated_head_has_no_output(model: Model, value: str, pos: Any) -> None:
    trace = run(model, Ablate("head", 1, head=2, pos=pos, value=value))
    where = np.arange(8) if pos is None else np.array([3, 7])
    heads = analysis.head_output(model, trace, 1)
    bias = analysis.attention_bias(model, trace, 1)
    np.testing.assert_allclose(heads.sum(0) + bias, trace.attn_out[1], atol=2e-5)
    if value == "zero":
        assert not heads[2, where].any()
        grid = analysis.decode(model, trace, component="head_output", head=2, rows=[1])
        blank = analysis.decode(model, trace, component="head_output", head=2, rows=[1])
        assert np.array_equal(grid.probs, blank.probs)
        np.testing.assert_allclose(grid.probs[0, where].std(0), 0.0, atol=1e-6)
        assert not analysis.attribute(model, trace, -1).heads[1, 2]
    else:
        assert np.abs(heads[2, where]).max() > 1e-3
        if model.stream.blocks[1].post_norm is None:
            np.testing.assert_allclose(heads[2, 3], heads[2, 7], atol=1e-5)
    others = np.delete(np.arange(heads.shape[0]), 2)
    if model.stream.blocks[1].post_norm is None:
        clean = analysis.head_output(model, run(model), 1)
        np.testing.assert_allclose(heads[others], clean[others], atol=1e-5)
    for method in FLOW_METHODS:
        if FLOW_METHODS[method].load is None or method in ("signed", "effect"):
            continue
        if value == "mean" and not FLOW_METHODS[method].vectors:
            with pytest.raises(SpecError, match="without a source position"):
                analysis.flow(model, trace, method=method)
            continue
        graph = analysis.flow(model, trace, method=method)
        assert ledger.graph_error(graph) < 1e-5
        heads_at = [link for link in graph.links if (link.kind, link.layer) == ("attention", 1)]
        assert not [link for link in heads_at if link.head == 2 and link.target_pos in where]
    require_ledger(model, trace)


@pytest.mark.parametrize("value", ["zero", "mean"])
def test_an_ablated_attention_output_has_no_heads(model: Model, value: str) -> None:
    trace = run(model, Ablate("attention", 1, value=value), Ablate("head", 1, head=0))
    assert not analysis.head_output(model, trace, 1).any()
    assert np.array_equal(analysis.attention_bias(model, trace, 1), trace.attn_out[1])
    parts = analysis.attribute(model, trace, -1)
    assert not parts.heads[1].any()
    assert parts.total == pytest.approx(parts.logit, abs=1e-3)
    for method in ("proximity", "norm", "attention", "rollout", "value_weighted", "kl"):
        graph = analysis.flow(model, trace, method=method)
        assert not [link for link in graph.links if (link.kind, link.layer) == ("attention", 1)]
        assert ledger.graph_error(graph) < 1e-5
    require_ledger(model, trace)


def test_an_ablated_mlp_has_no_neurons(small: Case) -> None:
    from analysis.flow_graph.link_reading import compute_neurons

    trace = analysis.trace(small.model, small.trace.token_ids, [Ablate("mlp", 1, pos=-1)])
    with pytest.raises(SpecError, match="MLP of layer 1 is ablated at position 8"):
        compute_neurons(small.model, trace, NeuronSpec(1, position=-1))
    assert compute_neurons(small.model, trace, NeuronSpec(1, position=4)).size > 0
    assert not analysis.attribute(small.model, trace, -1).mlps[1]


def edits(model: Model) -> dict[str, Any]:
    vector = np.linspace(-PUSH, PUSH, model.info.d_model)
    other = analysis.trace(model, [9, 9, 1, 2, 3, 4, 5, 6])
    return {
        "steer": Steer(2, -1, vector),
        "patch": Patch(2, -1, other),
        "inject": Inject(1, -1, 17),
        "turn": Inject(2, -1, 17, mode="main_component"),
    }


@pytest.mark.parametrize("kind", ["steer", "patch", "inject", "turn"])
def test_an_edited_state_is_not_a_sum_of_parts(model: Model, kind: str) -> None:
    """Attribution has a part of its own for it; what divides the state is refused."""
    edit = edits(model)[kind]
    trace = run(model, edit)
    assert trace.interventions[0].pos == (7,)
    parts = analysis.attribute(model, trace, -1)
    assert parts.total == pytest.approx(parts.logit, abs=2e-3)
    assert parts.interventions != 0.0
    if kind in ("patch", "inject"):
        assert not parts.heads[: edit.row].any()
        assert parts.embedding == 0.0
    assert analysis.attribute(model, trace, 4).interventions == 0.0
    for call in (
        lambda: analysis.flow(model, trace, method="proximity"),
        lambda: analysis.flow(model, trace, method="signed"),
        lambda: analysis.colours(model, trace, quantities=("norm",)),
    ):
        with pytest.raises(SpecError, match=f"row {edit.row}, position 7"):
            call()
    step = analysis.steps(model, trace, -1, 17)
    rises = np.diff(step.probs[:, 0])
    rises[edit.row - 1] = -1.0
    assert step.largest[0].layer == rises.argmax()
    below = analysis.flow(model, trace, position=4, method="proximity")
    assert ledger.graph_error(below) < 1e-5
    notes = require_ledger(model, trace)
    assert "1 states were changed" in notes[2]
    assert "not measured" in notes[7]


def test_a_query_without_keys_gets_no_attention(model: Model) -> None:
    """Its softmax over nothing must not become uniform over the future."""
    cut = [KnockOut(1, 2, 3, key) for key in range(4)]
    trace, clean = run(model, *cut), run(model)
    assert not trace.pattern[1, 2, 3].any()
    assert not analysis.head_output(model, trace, 1, head=2)[3].any()
    assert trace.empty_queries == ((1, 2, 3),)
    assert trace.sink[1, 2, 3] == 0.0
    np.testing.assert_allclose(trace.resid[:, :3], clean.resid[:, :3], atol=1e-6)
    others = np.delete(np.arange(model.info.heads), 2)
    np.testing.assert_allclose(trace.pattern[1, others], clean.pattern[1, others], atol=1e-6)
    later = analysis.trace(model, [5, 80, 33, 12, 1, 2, 3, 4], cut)
    np.testing.assert_allclose(later.logits[:4], trace.logits[:4], atol=1e-5)
    assert "1 queries have no key left" in require_ledger(model, trace)[4]


def test_a_whole_layer_without_keys(model: Model) -> None:
    cut = [KnockOut(1, None, 0, 0)]
    trace = run(model, *cut)
    assert len(trace.empty_queries) == model.info.heads
    bias = analysis.attention_bias(model, trace, 1)
    np.testing.assert_allclose(trace.attn_out[1, 0], bias[0], atol=1e-5)
    for method in ("proximity", "attention", "rollout"):
        graph = analysis.flow(model, trace, position=0, method=method)
        assert ledger.graph_error(graph) < 1e-5
    require_ledger(model, trace)


def test_a_sliding_window_limits_what_a_query_sees() -> None:
    model = built.understood(zoo.make("mistral"), "mistral")  # a window of 5 tokens
    cut = [KnockOut(0, 1, 7, key) for key in range(3, 8)]
    trace = run(model, *cut)
    assert trace.empty_queries == ((0, 1, 7),)
    assert not trace.pattern[0, 1, 7].any()


def test_positions_count_from_the_end_of_the_prompt(small: Case) -> None:
    """While generating, -1 stays the prompt's last position."""
    ids = small.trace.token_ids[:5]
    vector = torch.linspace(-2, 2, small.model.info.d_model, dtype=torch.bfloat16)
    from_end = analysis.generate(small.model, ids, 4, interventions=[Steer(1, -1, vector)])
    from_start = analysis.generate(small.model, ids, 4, interventions=[Steer(1, 4, vector)])
    assert from_end == from_start
    logits = analysis.trace(small.model, from_end[:-1], [Steer(1, 4, vector)]).logits
    assert tuple(logits.argmax(-1)[4:]) == from_end[5:]
    other = analysis.trace(small.model, ids[::-1])
    patched = analysis.generate(small.model, ids, 4, interventions=[Patch(1, None, other)])
    logits = analysis.trace(
        small.model, patched[:-1], [Patch(1, tuple(range(5)), other.resid[1])]
    ).logits
    assert tuple(logits.argmax(-1)[4:]) == patched[5:]
    mean = [Ablate("mlp", 0, pos=-2, value="mean")]
    generated = analysis.generate(small.model, ids, 4, interventions=mean)
    value = analysis.trace(small.model, ids, mean).mlp_out[0, 3]
    assert len(generated) == 9
    with pytest.raises(SpecError, match="Position 9 does not exist"):
        analysis.generate(small.model, ids, 4, interventions=[Steer(1, 9, vector)])
    assert np.isfinite(value).all()
