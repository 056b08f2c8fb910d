"""The batched runner and the reports against the public functions, one prompt at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import analysis
from analysis import codec
from analysis.contract import jobs
from analysis.errors import CancelledError
from analysis.store.memo import Memo
from analysis.tasks import (
    batch,
    carry_patching,
    failure_report,
    probes,
    suite_report,
    suites,
    sum_table,
)
from analysis.tasks.suite_specs import Outcome
from analysis.tasks.suites import Encoded, Suite, TaskPrompt, encode
from analysis.tasks.sum_table import Component, all_components, collect_states
from analysis.tracing.interventions import Patch
from tests.numerical.conftest import Case
from tests.support import built


def prompts_of(model: Any, lengths: tuple[int, ...] = (7, 5, 7, 9, 5)) -> list[Encoded]:
    made = []
    for seed, length in enumerate(lengths):
        ids = built.ids(model, length, seed)
        made.append(Encoded(ids, length - 2, (3, -1)))
    return made


def test_batched_states_equal_the_states_of_each_prompt(small: Case) -> None:
    asked = [prompt.token_ids for prompt in prompts_of(small.model)]
    seen = {}
    for states in batch.states(small.model, asked, most=2):
        seen.update(states.traces(small.model))
    assert sorted(seen) == list(range(len(asked)))
    for place, ids in enumerate(asked):
        alone = analysis.trace(small.model, ids)
        assert seen[place].tokens == alone.tokens
        for name in ("resid", "attn_out", "mlp_out", "pattern", "value", "logits"):
            found, wanted = getattr(seen[place], name), getattr(alone, name)
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5, err_msg=name)


def test_outcomes_equal_the_lens_on_each_prompt(small: Case) -> None:
    prompts = prompts_of(small.model)
    for prompt, outcome in zip(prompts, batch.run_suite(small.model, prompts), strict=True):
        trace = analysis.trace(small.model, prompt.token_ids)
        where = range(prompt.start - 1, len(prompt.token_ids))
        assert outcome.choices.tolist() == trace.logits[where].argmax(-1).tolist()
        for token in range(2):
            targets = [prompt.token_ids[prompt.start + token], int(outcome.choices[token])]
            grid = analysis.decode(
                small.model, trace, target=targets, positions=[prompt.start - 1 + token]
            )
            for place, name in enumerate(("right", "choice")):
                np.testing.assert_allclose(
                    getattr(outcome, f"{name}_probs")[:, token],
                    grid.target_prob[:, 0, place], rtol=2e-4, atol=1e-7,
                )  # fmt: skip
        assert np.isnan(outcome.other_probs[:, 1]).all()
        assert not np.isnan(outcome.other_probs[:, 0]).any()


def test_the_batch_size_changes_nothing(small: Case) -> None:
    prompts = prompts_of(small.model)
    one, all_at_once = (batch.run_suite(small.model, prompts, most=most) for most in (1, 50))
    for left, right in zip(one, all_at_once, strict=True):
        assert left.choices.tolist() == right.choices.tolist()
        np.testing.assert_allclose(left.right_probs, right.right_probs, rtol=1e-4, atol=1e-7)


def count_forwards(model: Any) -> tuple[list[int], Any]:
    seen: list[int] = []
    hook = model.hf.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    return seen, hook


def test_a_cancelled_run_resumes_where_it_stopped(gpt2: Case, tmp_path: Path) -> None:
    prompts = [Encoded(built.ids(gpt2.model, 6, seed), 4, (-1, -1)) for seed in range(12)]

    def stop(done: int, total: int, label: str) -> None:
        if done >= 6:
            raise CancelledError

    memo = Memo(tmp_path / "memo", 1 << 24)
    with pytest.raises(CancelledError), jobs.listening(stop):
        batch.run_suite(gpt2.model, prompts, memo, most=3)
    memo.close()
    again = Memo(tmp_path / "memo", 1 << 24)  # as after a kill: only what is on disk
    seen, hook = count_forwards(gpt2.model)
    resumed = batch.run_suite(gpt2.model, prompts, again, most=3)
    assert sum(seen) == 6
    assert [outcome.token_ids for outcome in resumed] == [prompt.token_ids for prompt in prompts]
    batch.run_suite(gpt2.model, prompts, again)
    assert sum(seen) == 6
    hook.remove()
    again.close()
    fresh = batch.run_suite(gpt2.model, prompts, most=3)
    for left, right in zip(resumed, fresh, strict=True):
        np.testing.assert_array_equal(left.right_ranks, right.right_ranks)


def test_memo_keys_differ_by_prompt_answer_and_foil(gpt2: Case) -> None:
    ids = built.ids(gpt2.model, 6)
    memo = Memo(None, 1 << 20)
    seen, hook = count_forwards(gpt2.model)
    for prompt in (Encoded(ids, 4, (-1, -1)), Encoded(ids, 5, (-1,)), Encoded(ids, 4, (2, -1))):
        batch.run_suite(gpt2.model, [prompt], memo)
    hook.remove()
    assert sum(seen) == 3
    memo.close()


def test_outcomes_survive_their_bytes(gpt2: Case) -> None:
    (outcome,) = batch.run_suite(gpt2.model, prompts_of(gpt2.model)[:1])
    back = codec.decode(codec.encode(outcome))
    assert isinstance(back, Outcome)
    np.testing.assert_array_equal(back.other_probs, outcome.other_probs)
    assert back.token_ids == outcome.token_ids


@pytest.fixture(scope="module")
def sums(adder: Any) -> sum_table.Table:
    return sum_table.random_sums(adder, 240, 3, 5, padded=True)


def test_the_shipped_adder_adds(adder: Any) -> None:
    assert adder.check().passed
    assert adder.info.norm == "LayerNorm"
    assert not adder.info.tied_embeddings
    suite = suites.build("addition-chains", 300, 8, padded=True)
    found = suite_report.report(adder, suite)
    assert found.accuracy.hits >= 299


def test_positions_are_named_by_digit_and_column(sums: sum_table.Table) -> None:
    assert sums.places[:6] == ("a4", "a3", "a2", "a1", "a0", "plus")
    assert sums.places[11:13] == ("equals", "answer5")
    assert sums.answers == (17, 16, 15, 14, 13, 12)


def test_emergence_tells_right_answers_from_controls(adder: Any) -> None:
    suite = suites.build("addition", 120, 2, padded=True)
    found = suite_report.report(adder, suite, label="chain")
    right, _, _, same, shuffled = found.curves
    assert right.never == 0
    assert same.never > 0.95 * same.count
    assert shuffled.never > 0.5 * shuffled.count
    assert sum(one.total for one in found.by_label) == 120


def test_wrong_answers_count_by_their_first_wrong_token(adder: Any) -> None:
    prompts = (TaskPrompt("12345+11111=", "023456"), TaskPrompt("12345+11111=", "023999"))
    found = suite_report.report(adder, Suite("x", "x", prompts))
    right, wrong, missed, _, _ = found.curves
    assert (right.count, wrong.count, missed.count) == (6, 1, 1)
    assert (wrong.never, missed.never) == (0, 1)
    assert found.accuracy.hits == 1


def test_an_answer_with_an_extra_digit_is_wrong(adder: Any) -> None:
    (prompt,) = (TaskPrompt("12345+11111=", "02345"),)
    found = suite_report.report(adder, Suite("x", "x", (prompt,)))
    assert found.accuracy.hits == 0


def test_equal_foils_are_the_other_prompts_answers() -> None:
    prompts = [Encoded((1, 2, answer), 2, (-1,)) for answer in (5, 6, 7, 8, 8, 9)]
    made = suite_report.with_equal_foils(prompts, 0)
    foils = [prompt.foil_ids[0] for prompt in made]
    assert all(foil != prompt.token_ids[2] for foil, prompt in zip(foils, made, strict=True))
    assert {foil for foil in foils if foil >= 0} <= {5, 6, 7, 8, 9}


def test_shuffling_keeps_ends_answer_and_tokens() -> None:
    prompt = Encoded((1, 2, 3, 4, 5, 6, 7), 6, (3,))
    (made,) = suite_report.shuffled([prompt], 1)
    assert made.token_ids[0] == 1
    assert made.token_ids[5:] == (6, 7)
    assert sorted(made.token_ids) == sorted(prompt.token_ids)
    assert made.token_ids != prompt.token_ids


def test_contributions_are_the_mean_of_attributions(adder: Any, sums: sum_table.Table) -> None:
    few = sums.part(np.arange(6))
    found = sum_table.report(adder, few)
    wanted: dict[int, list[Any]] = {0: [], 1: []}
    for n in range(6):
        trace = analysis.trace(adder, few.encoded[n].token_ids)
        carry = int(few.carry[n, 2])
        digit = int(few.a[n] + few.b[n]) // 100 % 10
        other = (digit - 1) % 10 if carry else (digit + 1) % 10
        one = analysis.attribute(adder, trace, position=14, token=digit, foil=other)
        wanted[carry].append(one.heads)
    for carry in (0, 1):
        assert found.counts[2, carry] == len(wanted[carry])
        if wanted[carry]:
            np.testing.assert_allclose(found.heads[2, carry], np.mean(wanted[carry], 0), atol=1e-4)
    np.testing.assert_allclose(found.attention.sum(-1), 1.0, atol=1e-5)


def test_collected_heads_sum_to_the_attention_output(small: Case) -> None:
    ids = built.ids(small.model, 6)
    one = Encoded(ids, 5, (-1,))
    table = sum_table.Table(np.array([1]), np.array([1]), 1, (one,), ("x",) * 6, (5,))
    found = collect_states(small.model, table, all_components(small.model), "x")
    trace = analysis.trace(small.model, ids)
    for layer in range(small.model.info.layers):
        heads = [
            value[0] for part, value in found.items() if part.kind == "head" and part.index == layer
        ]
        bias = analysis.attention_bias(small.model, trace, layer)
        np.testing.assert_allclose(sum(heads) + np.asarray(bias), trace.attn_out[layer], atol=1e-5)


def test_probes_decode_present_facts_only(
    adder: Any, sums: sum_table.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    planted = rng.normal(size=(len(sums.a), len(sums.places), 8)).astype(np.float32)
    planted[:, 14, 3] += 6.0 * sums.carry[:, 2]
    planted[:, 4] = 0.0
    monkeypatch.setattr(
        probes, "collect_states", lambda model, table, wanted, *_: {wanted[0]: planted}
    )
    found = probes.report(adder, sums, (Component("row", 0),))
    target = found.targets.index("carry2")
    assert found.accuracy[target, 0, 14] > 0.97
    others = np.delete(found.accuracy[target, 0], 14)
    assert np.abs(others - 0.5).max() < 0.25
    assert np.abs(found.control[target, 0] - 0.5).max() < 0.25
    assert found.fitted + found.held_out == len(sums.a)


def test_probes_find_carries_only_where_they_can_be_known(adder: Any) -> None:
    table = sum_table.random_sums(adder, 900, 5, 5, padded=True)
    found = probes.report(adder, table, (Component("row", 2),))
    for column in range(1, 5):
        target = found.targets.index(f"carry{column}")
        written = table.answers[column] - 1
        assert found.accuracy[target, 0, written] > 0.97
        assert found.accuracy[target, 0, 0] < 0.8  # the first digit alone does not decide


@pytest.mark.parametrize("travels", [False, True])
def test_pairs_differ_only_in_the_carry_and_below(travels: bool) -> None:
    rng = np.random.default_rng(0)
    pairs = carry_patching.pairs_for(rng, 50, 5, 3, True, travels)
    assert pairs.shape == (3, 2, 50)
    assert (pairs // 1000 == pairs[:1] // 1000).all()
    carried = (pairs % 1000).sum(1) >= 1000
    assert carried.any(1).tolist() == [False, True, False]
    assert carried[1].all()
    assert ((pairs // 1000 % 10).sum(1) != 9).all()
    below = (pairs // 100 % 10).sum(1)
    assert (below[1] == 9).all() if travels else (below[1] >= 10).all()


def test_patching_a_row_is_the_patch_intervention(adder: Any) -> None:
    rng = np.random.default_rng(1)
    (a0, b0), (a1, b1), _ = carry_patching.pairs_for(rng, 5, 5, 2, True, False)
    own = sum_table.table(adder, a0, b0, 5, padded=True)
    donor = sum_table.table(adder, a1, b1, 5, padded=True)
    stop = own.answers[2]
    ids, others = (
        torch.tensor([one.token_ids[:stop] for one in table.encoded]) for table in (own, donor)
    )
    for component in (Component("row", 0), Component("row", 1)):
        source = carry_patching._outputs(adder, component, others)
        said = carry_patching._patched(adder, component, ids, source, slice(14, 15))
        for n in range(5):
            trace = analysis.trace(adder, others[n].tolist())
            patch = Patch(component.index, 14, trace)
            wanted = analysis.trace(adder, ids[n].tolist(), [patch]).logits[-1].argmax()
            assert int(said[n]) == int(wanted)


def test_patching_everything_or_the_last_row_transfers_the_digit(adder: Any) -> None:
    wanted = (Component("row", 0), Component("row", 2), Component("head", 0, 0))
    found = carry_patching.report(adder, 5, pairs=16, components=wanted, columns=(2,))
    assert found.pairs[0] >= 14
    assert found.effect[0, 0, -1] == 1.0
    assert found.effect[0, 1, 14] == 1.0
    assert found.effect[0, 1, :14].max() == 0.0
    assert found.control[0, 1].max() <= 0.0 or np.isnan(found.control[0, 1]).any()
    assert np.nanmax(found.control[0, 1]) == 0.0


def test_a_failure_is_paired_with_the_most_similar_right_answer(adder: Any) -> None:
    prompts = (
        TaskPrompt("12345+11111=", "023456"),
        TaskPrompt("54321+00000=", "054321"),
        TaskPrompt("12346+11111=", "023999"),
    )
    found = failure_report.report(adder, Suite("x", "x", prompts))
    assert (found.right, found.wrong) == (2, 1)
    (pair,) = found.pairs
    assert (pair.right, pair.wrong, pair.token) == (0, 2, 3)
    assert pair.rows.shape == (3, 15)
    assert not pair.rows[:, :4].any()  # the same tokens, so the same states
    assert pair.rows[0, 4] > 0
    assert pair.heads.shape == (2, 4)
    assert pair.wrong_probs[-1] < 0.5 < pair.right_probs[-1]


@pytest.mark.real
def test_parts_are_found_among_tokens(smollm: Case) -> None:
    made = encode(smollm.model.tokenizer, suites.sum_prompt(123, 45, 3))
    pieces = {
        name: smollm.model.tokenizer.decode([made.token_ids[p] for p in places])
        for name, places in made.places.items()
    }
    assert {name: pieces[name] for name in ("a2", "b1", "answer0", "equals")} == {
        "a2": "1", "b1": "4", "answer0": "8", "equals": " =",
    }  # fmt: skip
    assert smollm.model.tokenizer.decode(made.token_ids[made.start :]) == "168"
