"""Every architecture satisfies every identity, or is refused with the reason."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import analysis
from analysis.errors import SpecError
from analysis.ledger import check, require
from analysis.lens.cells import states_of
from analysis.lens.specs import LensSpec
from analysis.model.handle import Model
from analysis.tracing.heads import has_heads
from tests.support import built, zoo

#: Run by ``make check``: one of each kind of block, norm, attention and readout.
DOZEN = (
    "gpt2", "gpt_neox", "gptj", "bloom", "falcon", "opt", "phi", "qwen3_moe", "gemma2", "olmo2",
    "cohere", "granite", "granite_swa", "gpt_oss", "deepseek_v3", "jamba",
)  # fmt: skip
KINDS = [
    kind if kind in DOZEN else pytest.param(kind, marks=pytest.mark.full) for kind in zoo.CONFIGS
]
TOKENS = (5, 9, 33, 2, 8, 41, 7, 60)


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> Model:
    return built.understood(zoo.make(request.param), request.param)


def test_every_identity_holds(model: Model) -> None:
    ledger = check(model)
    failed = [entry for entry in ledger.entries if not entry.passed]
    assert not failed
    assert [entry.number for entry in ledger.entries] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert ledger.colour == "green"
    require(model)


def test_an_ablation_changes_the_model_temporarily(model: Model) -> None:
    from analysis.tracing.interventions import Ablate

    plain = analysis.trace(model, TOKENS)
    if "attention" in model.info.parts:
        layer = next(i for i, block in enumerate(model.stream.blocks) if block.heads)
        edits = [
            Ablate("attention_output", layer),
            Ablate("mlp_output", layer),
            Ablate("head_output", layer, head=0),
        ]
    else:
        edits = [Ablate(f"{part}_output", 1) for part in model.info.parts]
    for edit in edits:
        changed = analysis.trace(model, TOKENS, [edit])
        assert np.abs(changed.logits - plain.logits).max() > 1e-4
    assert np.array_equal(analysis.trace(model, TOKENS).logits, plain.logits)


def test_a_knocked_out_edge_carries_nothing(model: Model) -> None:
    from analysis.tracing.interventions import KnockOut

    plain = analysis.trace(model, TOKENS)
    if "attention" not in model.info.parts:
        with pytest.raises(SpecError):
            analysis.trace(model, TOKENS, [KnockOut(1, 1, 7, 6)])
        return
    layer = next(i for i, block in enumerate(model.stream.blocks) if block.heads)
    trace = analysis.trace(model, TOKENS, [KnockOut(layer, 1, 7, 6)])
    assert np.all(trace.pattern[layer, 1, 7, 6] == 0.0)
    wanted = plain.pattern[layer, 1, 7].copy()
    wanted[6] = 0.0
    if trace.sink[layer].max() < 1e-4:  # a learned sink takes part in the renormalisation
        np.testing.assert_allclose(trace.pattern[layer, 1, 7], wanted / wanted.sum(), atol=1e-5)
    others = [head for head in range(model.info.heads) if head != 1]
    assert np.array_equal(trace.pattern[layer, others], plain.pattern[layer, others])


def test_every_technique_returns_a_result(model: Model) -> None:
    trace = analysis.trace(model, TOKENS)
    coloured = analysis.colours(model, trace)
    np.testing.assert_allclose(coloured.shares.sum(1), 1.0, atol=1e-4)
    assert not np.isnan(coloured.cross_entropy[:, :-1]).any()
    apart = analysis.disagreement(model, trace)
    one = model.info.tied_embeddings and model.readout.output_bias is None
    assert apart.all_coincide == one
    assert bool(apart.divergence.any()) != one
    steps = analysis.largest_steps(model, trace)
    np.testing.assert_allclose(steps.attention + steps.mlp, steps.step, atol=1e-5)
    told = analysis.steps(model, trace).largest[0]
    assert told.layer == steps.layer[-1]
    ranked = analysis.similarity_report(model, trace, cells=4)
    assert np.abs(ranked.rank_dot).max() <= 1.0
    assert analysis.embedding_report(model).tied == model.info.tied_embeddings
    assert analysis.norm_report(model).final is not None


def test_sources_add_up_to_their_head(model: Model) -> None:
    trace = analysis.trace(model, TOKENS)
    for layer in (i for i in range(model.info.layers) if has_heads(model, i)):
        wanted = analysis.head_output(model, trace, layer)
        for head in range(model.info.heads):
            asked = [LensSpec(component="source_output", head=head, source=j) for j in range(8)]
            total = sum(states_of(model, trace, spec, layer) for spec in asked)
            np.testing.assert_allclose(total, wanted[head], atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("gpt_neox", "parallel_blocks", True),
        ("cohere", "parallel_blocks", True),
        ("gemma2", "parallel_blocks", False),
        ("gptj", "attention_interface", "hooks"),
        ("qwen3_moe", "attention_interface", "function"),
    ],
)
def test_the_facts_about_a_model(kind: str, name: str, value: object) -> None:
    model = built.understood(zoo.make(kind), kind)
    assert getattr(model.info, name) == value


def test_the_models_own_multipliers_are_found() -> None:
    granite = built.understood(zoo.make("granite"), "granite")
    assert granite.stream.blocks[0].attention_scale == pytest.approx(0.6)
    assert granite.stream.blocks[0].mlp_scale == pytest.approx(0.6)
    assert granite.readout.logit_scale == pytest.approx(0.5)
    assert granite.readout.embedding_scale == pytest.approx(3.0)
    gemma = built.understood(zoo.make("gemma2"), "gemma2")
    assert gemma.readout.softcap == 30.0
    assert gemma.readout.embedding_scale == pytest.approx(32**0.5)


def test_a_learned_sink_reports_its_share() -> None:
    ledger = check(built.understood(zoo.make("gpt_oss"), "gpt_oss"), (4,))
    assert "learned sinks take" in ledger.entries[0].note


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_a_16_bit_model_shows_its_larger_error(kind: str) -> None:
    half = built.understood(zoo.make(kind).to(torch.bfloat16), kind)
    exact = built.understood(zoo.make(kind), kind)
    ledger, reference = check(half), check(exact)
    assert ledger.colour == "amber"
    assert ledger.largest_error > 100 * reference.largest_error
    assert half.info.dtype == "bfloat16"
    assert analysis.trace(half, TOKENS).resid.dtype == np.float32
