"""Generation with the cache, and one pass over the result."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

import analysis
from analysis.contract import jobs
from analysis.errors import CancelledError
from analysis.interventions import Steer
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


def test_a_run_equals_the_models_output(case: Case) -> None:
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


def test_generation_can_be_cancelled(small: Case) -> None:
    seen: list[int] = []

    def stop(done: int, total: int, label: str) -> None:
        seen.append(done)
        if done == 2:
            raise CancelledError

    with jobs.listening(stop), pytest.raises(CancelledError):
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
def test_invalid_prompts_are_refused_with_a_message(
    small: Case, prompt: object, count: int, words: str
) -> None:
    with pytest.raises(analysis.AnalysisError, match=words):
        analysis.generate(small.model, prompt, count)


@pytest.mark.parametrize(
    "own",
    [
        {"repetition_penalty": 5.0},
        {"no_repeat_ngram_size": 1},
        {"bad_words_ids": [[number] for number in range(40)]},
        {"suppress_tokens": list(range(140))},
        {"forced_eos_token_id": 7},
        {"num_beams": 3, "length_penalty": 2.0},
        {"do_sample": True, "temperature": 3.0, "top_k": 3, "min_p": 0.5, "typical_p": 0.2},
        {"min_new_tokens": 3, "exponential_decay_length_penalty": (1, 3.0)},
    ],
    ids=lambda own: next(iter(own)),
)
def test_greedy_is_the_argmax_whatever_the_models_own_config_says(
    small: Case, own: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = GenerationConfig(eos_token_id=0, **own)
    monkeypatch.setattr(small.model.hf, "generation_config", config)
    prompt = small.trace.token_ids[:5]
    wanted = slow_greedy(small, prompt, 6)
    assert analysis.generate(small.model, prompt, 6) == wanted
    nothing = [Steer(1, 0, np.zeros(small.model.info.d_model))]
    assert analysis.generate(small.model, prompt, 6, interventions=nothing) == wanted
    assert small.model.hf.generation_config is config
    chosen = analysis.generate(small.model, prompt, 6, use_model_config=True, seed=3)
    assert chosen[:5] == prompt
    torch.manual_seed(3)
    plain = small.model.hf.generate(torch.tensor([prompt]), max_new_tokens=6, pad_token_id=0)
    assert chosen == tuple(plain[0].tolist())


def test_the_end_tokens_of_the_models_own_config_end_the_text(
    small: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = small.trace.token_ids[:5]
    second = slow_greedy(small, prompt, 2)[-1]
    config = GenerationConfig(eos_token_id=[0, second])
    monkeypatch.setattr(small.model.hf, "generation_config", config)
    generated = analysis.generate(small.model, prompt, 6)
    assert generated[-1] == second
    assert len(generated) <= 7


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_above_zero_is_refused(small: Case, temperature: float) -> None:
    with pytest.raises(analysis.AnalysisError, match="temperature"):
        analysis.generate(small.model, [1, 2], 2, sample=True, temperature=temperature)


def test_an_answer_goes_on_from_the_tokens_with_which_it_begins(case: Case) -> None:
    prompt = case.trace.token_ids[:5]
    own, _ = run(case.model, RunSpec("any", token_ids=prompt, new_tokens=3))
    taken = int(own.top_ids[5, 1])  # the second choice at the answer's second token
    begun = (own.token_ids[5], taken)
    found, _ = run(case.model, RunSpec("any", token_ids=prompt, new_tokens=3, begun=begun))
    assert found.token_ids == slow_greedy(case, (*prompt, *begun), 3)
    assert (found.prompt_length, found.given) == (5, 2)
    text = case.model.tokenizer.decode([taken])
    read = tuple(case.model.tokenizer(text, add_special_tokens=False)["input_ids"])
    spec = RunSpec("any", token_ids=prompt, new_tokens=2, begun=begun[:1], own=text)
    written, _ = run(case.model, spec)
    assert written.token_ids[6 : 6 + len(read)] == read
    assert written.given == 1 + len(read)


def test_a_run_draws_its_tokens_as_generate_does(small: Case) -> None:
    drawn = {"sample": True, "temperature": 1.7, "top_p": 0.8, "seed": 5}
    spec = RunSpec("any", token_ids=(1, 2, 3), new_tokens=6, **drawn)
    assert run(small.model, spec)[0].token_ids == analysis.generate(
        small.model, [1, 2, 3], 6, **drawn
    )
    with pytest.raises(analysis.AnalysisError, match="not in the vocabulary"):
        run(small.model, RunSpec("any", token_ids=(1, 2), begun=(10**6,)))
