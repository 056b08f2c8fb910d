"""The causal check against single cuts, each in a separate pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import analysis
from analysis import codec
from analysis.contract import jobs
from analysis.errors import CancelledError
from analysis.flow_graph import causal_check
from analysis.flow_graph.causal_check import spearman
from analysis.flow_graph.results import LINK_KINDS
from analysis.flow_graph.specs import CausalSpec, ComparisonSpec, FlowSpec
from analysis.model.handle import Model
from analysis.tracing.capture import Trace
from analysis.tracing.interventions import Ablate, KnockOut
from tests.support import built, zoo

TOKENS = (5, 9, 33, 2, 8, 41, 7, 60)
Run = tuple[Model, Trace]


@pytest.fixture(scope="module", params=["llama", "phi", "gemma2", "gptj"])
def run(request: pytest.FixtureRequest) -> Run:
    model = built.understood(zoo.make(request.param), request.param)
    return model, analysis.trace(model, TOKENS)


def one_by_one(run: Run, check: Any, value: str) -> list[float]:
    """Each effect from a trace with that one intervention."""
    model, plain = run
    before = float(plain.logits[check.position, check.token])
    found = []
    columns = (check.kind, check.layer, check.head, check.source_pos, check.target_pos)
    for kind, layer, head, source, target in zip(*(c.tolist() for c in columns), strict=True):
        edit: Any = Ablate("mlp_output", layer, pos=target, value=value)
        if LINK_KINDS[kind] == "attention":
            edit = KnockOut(layer, None if head < 0 else head, target, source)
        changed = analysis.trace(model, TOKENS[: check.position + 1], [edit])
        found.append(before - float(changed.logits[check.position, check.token]))
    return found


@pytest.mark.parametrize("value", ["zero", "mean"])
@pytest.mark.parametrize("per_head", [True, False])
def test_effects_equal_single_cuts(run: Run, value: Any, per_head: bool) -> None:
    flow = FlowSpec(position=6, method="proximity", per_head=per_head)
    check = causal_check.compute(*run, CausalSpec(flow, value=value, limit=12))
    assert len(check.kind) == 12
    assert {LINK_KINDS[kind] for kind in check.kind} >= {"attention"}
    np.testing.assert_allclose(check.effect, one_by_one(run, check, value), atol=2e-5)
    assert check.passes < 1 + len(check.kind)
    assert check.correlation == pytest.approx(spearman(check.flow, np.abs(check.effect)))


def test_every_drawn_link_is_cut_counted_or_beyond_the_limit(run: Run) -> None:
    graph = analysis.flow(*run, method="proximity", top_k=2)
    check = causal_check.compute(*run, CausalSpec(FlowSpec(method="proximity", top_k=2), limit=5))
    assert len(check.kind) + check.without_cut + check.unmeasured == len(graph.links)
    cuttable = [
        link
        for link in graph.links
        if (link.kind == "attention" and link.target_pos > 0)
        or (link.kind == "mlp" and not link.target.startswith("mlp"))
    ]
    assert check.without_cut == len(graph.links) - len(cuttable)
    strongest = sorted((link.flow for link in cuttable), reverse=True)[:5]
    np.testing.assert_allclose(check.flow, strongest, rtol=1e-6)


def test_signed_links_are_compared_with_signed_effects(run: Run) -> None:
    flow = FlowSpec(position=6, method="signed", token=4, foil=9)
    check = causal_check.compute(*run, CausalSpec(flow, limit=15))
    assert (check.token, check.foil) == (4, 9)
    assert set(check.target_pos.tolist()) == {6}
    assert check.correlation == pytest.approx(spearman(check.flow, check.effect))
    last = run[0].info.layers - 1
    plain = run[1].logits[6]
    assert check.logit == pytest.approx(float(plain[4] - plain[9]), abs=1e-5)
    assert (check.layer == last).any()


def test_methods_are_compared_on_the_same_cuts(run: Run) -> None:
    names: Any = ("proximity", "norm", "residual_norm", "rollout", "signed")
    spec = ComparisonSpec(CausalSpec(FlowSpec(position=6), limit=6), names)
    result = causal_check.compare(*run, spec)
    assert result.methods == names
    assert len(result.kind) <= 6 * len(names)
    for row, correlation in zip(result.flow, result.correlations, strict=True):
        assert correlation == pytest.approx(spearman(row, np.abs(result.effect)), nan_ok=True)
    graph = analysis.flow(*run, position=6, method="norm", per_head=False)
    drawn = {
        (LINK_KINDS.index(k.kind), k.layer, k.source_pos, k.target_pos): k.flow
        for k in graph.links
        if not k.target.startswith("mlp")
    }
    columns = (result.kind, result.layer, result.source_pos, result.target_pos)
    wanted = [drawn.get(key, 0.0) for key in zip(*(c.tolist() for c in columns), strict=True)]
    np.testing.assert_allclose(result.flow[1], wanted, atol=1e-6)


def test_a_cancel_leaves_the_model_unchanged(run: Run) -> None:
    model, plain = run

    def stop(done: int, total: int, label: str) -> None:
        if label == "Cutting links":
            raise CancelledError

    with jobs.listening(stop), pytest.raises(CancelledError):
        causal_check.compute(model, plain, CausalSpec())
    assert np.array_equal(analysis.trace(model, TOKENS).logits, plain.logits)


def test_the_runs_own_interventions_stay_in_force(run: Run) -> None:
    model, _ = run
    own = Ablate("mlp_output", 0, pos=2)
    edited = analysis.trace(model, TOKENS, [own])
    check = causal_check.compute(
        model, edited, CausalSpec(FlowSpec(position=5, method="proximity"), limit=9)
    )
    assert check.logit == pytest.approx(float(edited.logits[5].max()), abs=1e-5)
    heads = np.flatnonzero(check.kind == LINK_KINDS.index("attention"))
    assert len(heads)
    for place in heads[:3]:
        cut = KnockOut(
            int(check.layer[place]), int(check.head[place]),
            int(check.target_pos[place]), int(check.source_pos[place]),
        )  # fmt: skip
        both = analysis.trace(model, TOKENS, [own, cut])
        wanted = check.logit - float(both.logits[5, check.token])
        assert check.effect[place] == pytest.approx(wanted, abs=2e-5)


def test_the_result_survives_the_codec(run: Run) -> None:
    check = causal_check.compute(*run, CausalSpec(limit=3))
    again = codec.decode(codec.encode(check))
    np.testing.assert_array_equal(again.effect, check.effect)
    assert (again.method, again.passes) == (check.method, check.passes)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"flow": FlowSpec((1, 2))}, "one root"),
        ({"flow": FlowSpec(0, 0, direction="up")}, "one root"),
        ({"limit": 0}, "At least one"),
        ({"value": "noise"}, "ablation"),
    ],
)
def test_invalid_options_are_refused_with_a_message(options: Any, words: str) -> None:
    with pytest.raises(analysis.AnalysisError, match=words):
        CausalSpec(**options)


def test_another_token_than_the_graphs_is_refused(run: Run) -> None:
    spec = CausalSpec(FlowSpec(method="signed", token=3), token=4)
    with pytest.raises(analysis.AnalysisError, match="another token"):
        causal_check.compute(*run, spec)
