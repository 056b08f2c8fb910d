"""Generation with the cache, and one pass over what it made."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import analysis
from analysis.contract import progress
from analysis.errors import CancelledError
from analysis.tracing.generation import run
from analysis.tracing.specs import RunSpec
from tests.numerical.conftest import Case
from tests.support import built


def slow_greedy(case: Case, ids: tuple[int, ...], count: int) -> tuple[int, ...]:
    for _ in range(count):
        token = int(built.plain_logits(case.model, ids)[-1].argmax())
        ids = (*ids, token)
        if token == case.model.tokenizer.eos_token_id:
            break
    return ids


def test_greedy_equals_recomputing_every_step(case: Case) -> None:
    prompt = case.trace.token_ids[:5]
    assert analysis.generate(case.model, prompt, 6) == slow_greedy(case, prompt, 6)


def test_a_prefix_has_the_same_states_in_a_longer_prompt(case: Case) -> None:
    short = analysis.trace(case.model, case.trace.token_ids[:4])
    difference = np.linalg.norm(short.resid - case.trace.resid[:, :4], axis=-1)
    assert (difference / np.linalg.norm(short.resid, axis=-1)).max() < 1e-5


def test_sampling_repeats_with_its_seed(small: Case) -> None:
    options = {"sample": True, "temperature": 2.0}
    one = analysis.generate(small.model, [1, 2, 3], 8, seed=4, **options)
    assert one == analysis.generate(small.model, [1, 2, 3], 8, seed=4, **options)
    others = {analysis.generate(small.model, [1, 2, 3], 8, seed=s, **options) for s in range(5)}
    assert len(others) > 1


def test_a_run_says_what_the_model_said(case: Case) -> None:
    ids = case.trace.token_ids
    result, trace = run(case.model, RunSpec("any", token_ids=ids, new_tokens=3))
    assert result.token_ids[: len(ids)] == ids
    assert result.prompt_length == len(ids)
    logits = torch.from_numpy(trace.logits).double()
    probs = torch.softmax(logits, -1).numpy()
    for pos in range(len(result.tokens) - 1):
        follows = result.token_ids[pos + 1]
        assert result.next_prob[pos] == pytest.approx(probs[pos, follows], rel=1e-3)
        assert result.next_rank[pos] == int((probs[pos] > probs[pos, follows]).sum())
        assert result.top_ids[pos, 0] == logits[pos].argmax()
    assert np.isnan(result.next_prob[-1])
    assert np.array_equal(built.plain_logits(case.model, result.token_ids).numpy(), trace.logits)


def test_generation_can_be_stopped(small: Case) -> None:
    seen: list[int] = []

    def stop(done: int, total: int, label: str) -> None:
        seen.append(done)
        if done == 2:
            raise CancelledError

    with progress.listening(stop), pytest.raises(CancelledError):
        analysis.generate(small.model, [1, 2, 3], 30)
    assert seen == [1, 2]
    assert analysis.generate(small.model, [1, 2, 3], 2)


@pytest.mark.parametrize(
    ("prompt", "count", "words"),
    [
        ("", 1, "empty"),
        ([10**6], 1, "not in the vocabulary"),
        ([1], 500, "positions"),
        ([1], -1, "negative"),
    ],
)
def test_bad_prompts_are_refused_in_words(
    small: Case, prompt: object, count: int, words: str
) -> None:
    with pytest.raises(analysis.AnalysisError, match=words):
        analysis.generate(small.model, prompt, count)
