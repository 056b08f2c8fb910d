"""Interventions against edits made by hand on the modules."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch

import analysis
from analysis.tracing.intervention_hooks import applied
from analysis.tracing.interventions import Ablate, Inject, KnockOut, Patch, Steer
from tests.numerical.conftest import Case
from tests.support import built, zoo


@pytest.fixture(scope="module")
def gpt_neox() -> Case:
    """Parallel blocks, LayerNorm, partly rotary, untied."""
    model = built.understood(zoo.make("gpt_neox"), "gpt_neox")
    return Case(model, analysis.trace(model, built.ids(model, 9)))


@pytest.fixture(params=["gpt2", "llama", "gpt_neox"])
def small(request: pytest.FixtureRequest) -> Case:
    case: Case = request.getfixturevalue(request.param)
    return case


@contextmanager
def hooked(module, function, before=False):
    """A hook made with torch alone."""
    add = module.register_forward_pre_hook if before else module.register_forward_hook
    handle = add(function)
    try:
        yield
    finally:
        handle.remove()


def parts(case: Case, layer: int):
    """(block, attention module, its output projection, MLP), by their names."""
    hf = case.model.hf
    if case.model.info.architecture == "gpt2":
        block = hf.transformer.h[layer]
        return block, block.attn, block.attn.c_proj, block.mlp
    if case.model.info.architecture == "gpt_neox":
        block = hf.gpt_neox.layers[layer]
        return block, block.attention, block.attention.dense, block.mlp
    block = hf.model.layers[layer]
    return block, block.self_attn, block.self_attn.o_proj, block.mlp


def logits(case: Case) -> np.ndarray:
    return built.plain_logits(case.model, case.trace.token_ids).numpy()


def edited(case: Case, *interventions) -> np.ndarray:
    return analysis.trace(case.model, case.trace.token_ids, interventions).logits


@pytest.mark.parametrize("value", ["zero", "mean"])
@pytest.mark.parametrize("pos", [None, 3, (1, 8)])
def test_ablating_an_mlp(small: Case, value: str, pos: object) -> None:
    *_, mlp = parts(small, 1)

    def edit(module, args, output):
        output = output.clone()
        where = slice(None) if pos is None else ([pos] if isinstance(pos, int) else list(pos))
        output[0, where] = output[0].mean(0) if value == "mean" else 0.0
        return output

    with hooked(mlp, edit):
        wanted = logits(small)
    found = edited(small, Ablate("mlp_output", 1, pos=pos, value=value))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.abs(found - small.trace.logits).max() > 1e-3


def test_ablating_attention(small: Case) -> None:
    _, attention, _, _ = parts(small, 2)
    with hooked(attention, lambda m, a, out: (torch.zeros_like(out[0]), *out[1:])):
        wanted = logits(small)
    np.testing.assert_allclose(edited(small, Ablate("attention", 2)), wanted, atol=1e-5)


@pytest.mark.parametrize("value", ["zero", "mean"])
def test_ablating_a_head(small: Case, value: str) -> None:
    _, _, projection, _ = parts(small, 1)
    width = small.model.info.d_head

    def edit(module, args):
        state = args[0].clone()
        part = slice(2 * width, 3 * width)
        state[0, :, part] = state[0, :, part].mean(0) if value == "mean" else 0.0
        return (state,)

    with hooked(projection, edit, before=True):
        wanted = logits(small)
    found = edited(small, Ablate("head_output", 1, head=2, value=value))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("head", [1, None])
def test_knocking_out_an_edge(small: Case, head: int | None) -> None:
    """The edge's weight is 0 and the others of its row are renormalised by the softmax."""
    trace = analysis.trace(small.model, small.trace.token_ids, [KnockOut(1, head, 6, 2)])
    heads = range(small.model.info.heads) if head is None else [head]
    for number in range(small.model.info.heads):
        row = small.trace.pattern[1, number, 6].copy()
        if number in heads:
            row[2] = 0.0
            row /= row.sum()
        np.testing.assert_allclose(trace.pattern[1, number, 6], row, atol=1e-5)
    others = np.delete(np.arange(9), 6)
    np.testing.assert_allclose(
        trace.pattern[1][:, others], small.trace.pattern[1][:, others], atol=1e-6
    )
    # The result of the new pattern by plain arithmetic.
    heads_out = analysis.head_output(small.model, trace, 1)
    bias = analysis.attention_bias(small.model, trace, 1)
    np.testing.assert_allclose(heads_out.sum(0) + bias, trace.attn_out[1], atol=1e-5)
    assert np.abs(trace.logits[6:] - small.trace.logits[6:]).max() > 1e-4


def test_patching_a_run_into_itself_changes_nothing(small: Case) -> None:
    for row in range(small.model.info.layers + 1):
        assert np.array_equal(edited(small, Patch(row, None, small.trace)), small.trace.logits)


def test_patching_the_last_row_makes_the_other_runs_logits(small: Case) -> None:
    other = analysis.trace(small.model, built.ids(small.model, 9, seed=77))
    found = edited(small, Patch(-1, None, other))
    np.testing.assert_allclose(found, other.logits, atol=1e-5)
    one = edited(small, Patch(-1, 4, other))
    np.testing.assert_allclose(one[4], other.logits[4], atol=1e-5)
    np.testing.assert_allclose(one[5], small.trace.logits[5], atol=1e-5)


def test_patching_a_state_by_hand(small: Case) -> None:
    other = analysis.trace(small.model, built.ids(small.model, 6, seed=9))
    block, *_ = parts(small, 1)

    def edit(module, args, output):
        state = (output[0] if isinstance(output, tuple) else output).clone()
        state[0, 7] = torch.from_numpy(other.resid[2, 3])
        return (state, *output[1:]) if isinstance(output, tuple) else state

    with hooked(block, edit):
        wanted = logits(small)
    found = edited(small, Patch(2, 7, other, source_pos=3))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("row", [0, 2])
def test_steering_adds_a_vector(small: Case, row: int) -> None:
    vector = np.linspace(-1, 1, small.model.info.d_model)
    trace = analysis.trace(small.model, small.trace.token_ids, [Steer(row, 4, vector)])
    np.testing.assert_allclose(trace.resid[row, 4], small.trace.resid[row, 4] + vector, atol=1e-5)
    assert np.array_equal(trace.resid[row, :4], small.trace.resid[row, :4])
    with applied(small.model, [Steer(row, 4, vector)]):
        wanted = logits(small)
    np.testing.assert_allclose(trace.logits, wanted, atol=1e-6)


def test_injecting_a_token(small: Case) -> None:
    token = 12
    trace = analysis.trace(small.model, small.trace.token_ids, [Inject(1, 3, token)])
    row = small.model.hf.get_input_embeddings().weight[token].numpy()
    np.testing.assert_allclose(trace.resid[1, 3], row, atol=1e-6)
    turned = analysis.trace(
        small.model, small.trace.token_ids, [Inject(1, 3, token, mode="main_component")]
    )
    h = small.trace.resid[1, 3].astype(np.float64)
    grid = analysis.decode(small.model, small.trace, rows=[1], positions=[3])
    rows = small.model.hf.get_output_embeddings().weight.double().numpy()
    f, e = (rows[i] / np.linalg.norm(rows[i]) for i in (int(grid.token_ids[0, 0, 0]), token))
    np.testing.assert_allclose(turned.resid[1, 3], h + (h @ f) * (e - f), atol=1e-4)


def test_no_intervention_is_bit_identical(case: Case) -> None:
    silent = Steer(1, None, np.zeros(case.model.info.d_model))
    assert np.array_equal(edited(case, silent), case.trace.logits)
    assert np.array_equal(edited(case), case.trace.logits)


def test_the_model_is_unchanged_after_an_exception(small: Case) -> None:
    before = {name: weight.clone() for name, weight in small.model.hf.named_parameters()}
    with (
        pytest.raises(RuntimeError, match="inside"),
        applied(small.model, [Ablate("mlp", 0), KnockOut(1, 0, 4, 2), Ablate("head", 1, head=0)]),
    ):
        raise RuntimeError("inside")
    assert np.array_equal(logits(small), small.trace.logits)
    assert np.array_equal(edited(small), small.trace.logits)
    for name, weight in small.model.hf.named_parameters():
        assert torch.equal(weight, before[name])


def test_interventions_are_replayed_while_generating(small: Case) -> None:
    edit = [Ablate("mlp_output", 1, pos=(2, 5))]
    ids = small.trace.token_ids[:4]
    wanted = ids
    for _ in range(4):
        with applied(small.model, edit):
            token = int(built.plain_logits(small.model, wanted)[-1].argmax())
        wanted = (*wanted, token)
    assert analysis.generate(small.model, ids, 4, interventions=edit) == wanted


def test_a_batch_of_edits_equals_one_at_a_time(small: Case) -> None:
    sets = [[Ablate("mlp", 1, pos=3)], [KnockOut(1, 2, 6, 1)], [], [Ablate("head", 0, head=1)]]
    tokens = torch.tensor([small.trace.token_ids] * len(sets))
    with applied(small.model, sets, 9), torch.no_grad():
        found = small.model.hf(tokens, use_cache=False).logits.numpy()
    for row, interventions in zip(found, sets, strict=True):
        np.testing.assert_allclose(row, edited(small, *interventions), atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Ablate("everything", 0),
        lambda: Ablate("head_output", 0),
        lambda: Ablate("mlp", 0, value="noise"),
        lambda: Ablate("mlp", 99),
        lambda: Ablate("mlp", 0, pos=99),
        lambda: Ablate("head", 0, head=99),
        lambda: KnockOut(0, 0, 2, 5),
        lambda: KnockOut(0, 0, -10, 0),
        lambda: KnockOut(0, 0, 1.5, 0),
        lambda: Patch(99, 0, np.zeros(32)),
        lambda: Patch(0, 0, np.zeros(31)),
        lambda: Inject(0, 0, 10**7),
        lambda: Inject(0, 0, 1, mode="half"),
        lambda: Steer(0, 99, np.zeros(32)),
        lambda: Steer(0, 2.5, np.zeros(32)),
        lambda: Steer(0, 0, np.full(32, np.nan)),
        lambda: Steer(0, 0, "left"),
        lambda: Patch(0, (1, 2), np.zeros((3, 32))),
        lambda: Patch(0, None, np.zeros((3, 32))),
    ],
)
def test_invalid_interventions_are_refused(small: Case, make) -> None:
    with pytest.raises(analysis.AnalysisError):
        edited(small, make())
