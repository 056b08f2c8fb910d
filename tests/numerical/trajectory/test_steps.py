"""Curves over the rows and the largest step, against the grid and against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import analysis
from tests.numerical import reference
from tests.numerical.conftest import Case
from tests.numerical.lens.test_grid import matrices, slow_norm, softmax
from tests.support import built, zoo

TOKENS = [7, 200, 3]


@pytest.fixture(scope="module")
def parallel() -> Case:
    model = built.understood(zoo.make("gpt_neox"), "gpt_neox")
    return Case(model, analysis.trace(model, (5, 9, 33, 2, 8, 41)))


def slow_log_prob(case: Case, state: np.ndarray, token: int) -> float:
    _, e_out = matrices(case)
    return float(np.log(softmax(e_out @ slow_norm(case, state, "full"))[token]))


def test_curves_are_those_of_the_grid(small: Case) -> None:
    found = analysis.steps(small.model, small.trace, 5, TOKENS)
    grid = analysis.decode(small.model, small.trace, positions=[5], target=TOKENS)
    np.testing.assert_allclose(found.probs, grid.target_prob[:, 0], rtol=1e-5)
    np.testing.assert_allclose(found.entropy, grid.entropy[:, 0], rtol=1e-5)
    np.testing.assert_allclose(found.kl_to_final, grid.kl_to_final[:, 0], rtol=1e-4, atol=1e-6)
    assert np.array_equal(found.ranks, grid.target_rank[:, 0])
    assert [token.id for token in found.tokens] == TOKENS
    assert found.actual == small.trace.token_ids[6]
    for number, token in enumerate(TOKENS):
        logs = [slow_log_prob(small, small.trace.resid[row, 5], token) for row in range(4)]
        np.testing.assert_allclose(found.log_probs[:, number], logs, atol=1e-4)


def test_the_default_token_is_the_models_top_token(case: Case) -> None:
    found = analysis.steps(case.model, case.trace, tau=0.2)
    assert [token.id for token in found.tokens] == [case.trace.logits[-1].argmax()]
    told = analysis.emergence(case.model, case.trace, tau=0.2, causal=False)
    for name in ("first_top1", "emergence", "saturation"):
        assert getattr(found, name) == getattr(told, name)[-1:]
    assert found.actual == -1
    assert found.kl_to_final[-1] == pytest.approx(0.0, abs=1e-5)


def test_the_largest_step_by_hand(small: Case) -> None:
    """Each state by plain arithmetic: before the block, after attention and after the MLP."""
    slow = reference.forward(small.model.hf, small.trace.token_ids)
    for token in TOKENS:
        step = analysis.steps(small.model, small.trace, 5, token).largest[0]
        logs = [slow_log_prob(small, state[5], token) for state in slow.rows]
        assert step.layer == np.diff(np.exp(logs)).argmax()
        middle = slow.rows[step.layer][5] + slow.attn[step.layer][5]
        between = slow_log_prob(small, middle, token)
        after = slow_log_prob(small, middle + slow.mlp[step.layer][5], token)
        assert step.step == pytest.approx(after - logs[step.layer], abs=2e-4)
        assert step.attention == pytest.approx(between - logs[step.layer], abs=2e-4)
        assert step.mlp == pytest.approx(after - between, abs=2e-4)
        larger = between - logs[step.layer] >= after - between
        assert step.component == ("attention" if larger else "mlp")


def test_its_heads_equal_those_of_the_attribution(small: Case) -> None:
    step = analysis.steps(small.model, small.trace, 5, 7).largest[0]
    parts = analysis.attribute(small.model, small.trace, 5, 7)
    wanted = parts.heads[step.layer]
    assert step.heads.tolist() == np.argsort(-wanted, kind="stable").tolist()
    np.testing.assert_allclose(step.head_logits, wanted[step.heads], atol=1e-5)
    assert step.mlp_logit == pytest.approx(float(parts.mlps[step.layer]), abs=1e-5)
    for head, source in zip(step.heads, step.head_sources, strict=True):
        values = [value_of(small, step.layer, int(head), key) for key in range(6)]
        assert source == int(np.argmax(values))


def value_of(case: Case, layer: int, head: int, key: int) -> float:
    """The contribution of one source of a head to token 7's logit at position 5."""
    found = analysis.promoted(case.model, case.trace, "source_output", layer, 5, head=head,
                              source=key, k=case.model.info.vocab)  # fmt: skip
    return float(found.promoted_logits[found.promoted == 7][0])


def test_in_a_parallel_block_neither_part_comes_first(parallel: Case) -> None:
    norm = parallel.model.hf.gpt_neox.final_layer_norm
    e_out = parallel.model.hf.get_output_embeddings().weight.double().numpy()

    def read(state: np.ndarray) -> float:
        state = state.astype(np.float64)
        unit = (state - state.mean()) / np.sqrt(state.var() + norm.eps)
        logits = e_out @ (unit * norm.weight.double().numpy() + norm.bias.double().numpy())
        return float(np.log(softmax(logits)[7]))

    trace = parallel.trace
    step = analysis.steps(parallel.model, trace, 4, 7).largest[0]
    x, a, m = (array[step.layer, 4] for array in (trace.resid, trace.attn_out, trace.mlp_out))
    attention = (read(x + a) - read(x) + read(x + a + m) - read(x + m)) / 2
    mlp = (read(x + m) - read(x) + read(x + a + m) - read(x + a)) / 2
    assert step.attention == pytest.approx(attention, abs=2e-4)
    assert step.mlp == pytest.approx(mlp, abs=2e-4)


def test_largest_steps_equal_the_steps_of_each_position(small: Case, parallel: Case) -> None:
    for case in (small, parallel):
        found = analysis.largest_steps(case.model, case.trace)
        assert found.token_ids.tolist() == case.trace.logits.argmax(-1).tolist()
        for pos in range(len(case.trace.tokens)):
            one = analysis.steps(case.model, case.trace, pos).largest[0]
            assert found.layer[pos] == one.layer
            assert found.step[pos] == pytest.approx(one.step, abs=1e-4)
            assert found.attention[pos] == pytest.approx(one.attention, abs=1e-4)
            if one.component == "mlp":
                assert (found.head[pos], found.source[pos]) == (-1, -1)
                assert np.isnan(found.head_logit[pos])
            else:
                assert (found.head[pos], found.source[pos]) == (one.heads[0], one.head_sources[0])
                assert found.head_logit[pos] == pytest.approx(one.head_logits[0], abs=1e-5)
        assert len(set(found.head.tolist())) > 1


def test_a_layer_without_heads_names_no_head() -> None:
    model = built.understood(zoo.make("jamba"), "jamba")
    trace = analysis.trace(model, (5, 9, 33, 2, 8))
    found = [analysis.steps(model, trace, pos).largest[0] for pos in range(5)]
    without = [step for step in found if not model.stream.blocks[step.layer].heads]
    assert without
    assert all(len(step.heads) == 0 for step in without)
    assert (analysis.largest_steps(model, trace).head[[s in without for s in found]] == -1).all()


@torch.no_grad()
def plain_states(case: Case, layer: int) -> list[torch.Tensor]:
    """The plain model's states before a block's attention, before its MLP, and after it."""
    seen: dict[str, torch.Tensor] = {}
    block = case.model.hf.model.layers[layer]
    hooks = [
        block.input_layernorm.register_forward_pre_hook(
            lambda _, given: seen.update(before=given[0][0, -1])
        ),
        block.post_attention_layernorm.register_forward_pre_hook(
            lambda _, given: seen.update(between=given[0][0, -1])
        ),
        block.register_forward_hook(lambda _, given, made: seen.update(after=made[0, -1])),
    ]
    case.model.hf(torch.tensor([case.trace.token_ids]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return [seen[name] for name in ("before", "between", "after")]


@torch.no_grad()
def read(case: Case, state: torch.Tensor, token: int) -> float:
    """A token's log-probability by the model's own last norm and unembedding."""
    logits = case.model.hf.lm_head(case.model.hf.model.norm(state))
    return float(torch.log_softmax(logits.double(), -1)[token])


@pytest.mark.real
def test_the_largest_step_of_a_real_fact_equals_plain_arithmetic(smollm: Case) -> None:
    step = analysis.steps(smollm.model, smollm.trace).largest[0]
    told = analysis.largest_steps(smollm.model, smollm.trace)
    assert told.layer[-1] == step.layer
    assert step.step > 1.0
    token = int(smollm.trace.logits[-1].argmax())
    before, between, after = (read(smollm, x, token) for x in plain_states(smollm, step.layer))
    assert step.step == pytest.approx(after - before, abs=1e-3)
    assert step.attention == pytest.approx(between - before, abs=1e-3)
    assert step.mlp == pytest.approx(after - between, abs=1e-3)


def test_missing_indices_are_refused(llama: Case) -> None:
    for options in ({"position": 99}, {"tokens": [10**6]}, {"tau": 0.0}):
        with pytest.raises(analysis.AnalysisError):
            analysis.steps(llama.model, llama.trace, **options)
