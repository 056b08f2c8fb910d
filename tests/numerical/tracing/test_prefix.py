"""Generation that goes on from a known prefix gives the tokens of a whole pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

import analysis
from analysis.errors import NotEnoughMemoryError
from analysis.tracing import generation
from analysis.tracing.prefix import CHECKED
from analysis.tracing.specs import RunSpec
from tests.numerical.conftest import Case
from tests.support import built


def fed(case: Case, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of tokens of each later pass of the model."""
    seen: list[int] = []

    def count(_module: Any, _args: Any, options: dict[str, Any]) -> None:
        seen.append(options["input_ids"].shape[1])

    handle = case.model.hf.register_forward_pre_hook(count, with_kwargs=True)
    monkeypatch.setattr(case.model.hf, "_handle_of_the_test", handle, raising=False)
    return seen


def test_only_what_follows_the_known_prefix_is_computed(
    small: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = small.trace.token_ids[:7]
    generation._KEPT.clear()
    wanted = analysis.generate(small.model, prompt, 4)
    seen = fed(small, monkeypatch)
    try:
        assert analysis.generate(small.model, prompt, 5)[: len(wanted)] == wanted
        assert seen[0] == 1  # the prompt's last token
        seen.clear()
        branch = (*wanted[:8], (wanted[8] + 1) % 100)
        found = analysis.generate(small.model, branch, 3)
        assert seen[0] == 1  # the token that was taken
        seen.clear()
        other = ((prompt[0] + 1) % 100, *prompt[1:])
        analysis.generate(small.model, other, 1)
        assert seen[0] == len(other)
    finally:
        small.model.hf._handle_of_the_test.remove()
    generation._KEPT.clear()
    assert found == analysis.generate(small.model, branch, 3)


def test_logits_after_a_known_prefix_differ_by_rounding_only(case: Case) -> None:
    ids = case.trace.token_ids
    generation._KEPT.clear()
    cache = generation.begin_cache(case.model, ids[:-1])
    assert cache is not None
    with torch.no_grad():
        case.model.hf(torch.tensor([ids[:-1]]), past_key_values=cache)
        generation.keep_cache(case.model, ids[:-1], cache)
        known = generation.begin_cache(case.model, ids)
        assert known is not None
        assert known.get_seq_length() == len(ids) - 1
        found = case.model.hf(torch.tensor([ids[-1:]]), past_key_values=known).logits[0, -1]
    whole = built.plain_logits(case.model, ids)[-1]
    assert float((found - whole).abs().max() / whole.abs().max()) < 1e-5


def test_sampling_repeats_whether_the_prefix_is_known_or_not(small: Case) -> None:
    options: dict[str, Any] = {"sample": True, "temperature": 1.5, "top_p": 0.9, "seed": 3}
    generation._KEPT.clear()
    one = analysis.generate(small.model, [1, 2, 3], 8, **options)
    assert analysis.generate(small.model, [1, 2, 3], 8, **options) == one


def test_a_cache_that_is_too_large_is_not_kept(
    small: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "MAX_BYTES", 10)
    generation._KEPT.clear()
    analysis.generate(small.model, [1, 2, 3], 2)
    assert small.model not in generation._KEPT


@pytest.mark.parametrize("top_p", [0.0, 1.5, float("nan")])
def test_a_nucleus_outside_its_range_is_refused(small: Case, top_p: float) -> None:
    with pytest.raises(analysis.AnalysisError, match="top_p"):
        analysis.generate(small.model, [1, 2], 2, sample=True, top_p=top_p)


def test_a_small_nucleus_draws_the_best_token(small: Case) -> None:
    greedy = analysis.generate(small.model, [1, 2, 3], 4)
    options: dict[str, Any] = {"sample": True, "top_p": 1e-6, "temperature": 1.0}
    assert analysis.generate(small.model, [1, 2, 3], 4, seed=9, **options) == greedy


@pytest.mark.parametrize("drawn", [{}, {"sample": True, "temperature": 1.7, "seed": 5}])
@pytest.mark.parametrize("new", [1, 4])
def test_a_run_reads_its_prompt_once(
    case: Case, new: int, drawn: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = (case.trace.token_ids * 4)[:18]
    spec = RunSpec("any", token_ids=prompt, new_tokens=new, **drawn)
    monkeypatch.setattr(generation, "READ_ONCE", range(0))
    generation._KEPT.clear()
    wanted, states = generation.run(case.model, spec)
    monkeypatch.undo()
    generation._KEPT.clear()
    seen = fed(case, monkeypatch)
    try:
        found, longer = generation.run(case.model, spec)
    finally:
        case.model.hf._handle_of_the_test.remove()
    assert found.token_ids == wanted.token_ids
    assert found.stopped == wanted.stopped
    error = np.linalg.norm(longer.resid - states.resid, axis=-1)
    assert (error / np.linalg.norm(states.resid, axis=-1)).max() < 1e-5
    assert np.abs(longer.logits - states.logits).max() < 1e-4 * np.abs(states.logits).max()
    if case.model.goes_on:
        answer = len(found.token_ids) - len(prompt)
        assert longer.reused == len(prompt)
        steps = answer if drawn else answer - 1  # a greedy first token needs no step
        assert seen == [len(prompt), *[1] * steps, CHECKED + answer]


def test_an_end_token_ends_a_run_that_reads_its_prompt_once(
    small: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = (small.trace.token_ids * 4)[:18]
    first = int(built.plain_logits(small.model, prompt)[-1].argmax())
    config = GenerationConfig(eos_token_id=[first])
    monkeypatch.setattr(small.model.hf, "generation_config", config)
    result, _ = generation.run(small.model, RunSpec("any", token_ids=prompt, new_tokens=5))
    assert result.token_ids == (*prompt, first)
    assert result.stopped == "end of text"


def test_a_long_prompt_is_not_kept_twice(small: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    assert generation.READ_ONCE.stop <= 513  # the states of 512 tokens take under 1 GB
    monkeypatch.setattr(generation, "READ_ONCE", range(16, 18))
    prompt = (small.trace.token_ids * 4)[:18]
    generation._KEPT.clear()
    _, longer = generation.run(small.model, RunSpec("any", token_ids=prompt, new_tokens=1))
    assert longer.reused == 0


def test_a_prompt_is_read_again_with_nothing_of_a_pass_that_failed(
    small: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = (small.trace.token_ids * 4)[:18]
    generation._KEPT.clear()
    small.model.recent.clear()
    block = small.model.stream.blocks[-1].module
    failing = [True]

    def fail(*_: Any) -> None:
        """The memory ends in the last block of the first pass."""
        if failing.pop() if failing else False:
            raise NotEnoughMemoryError("There is no memory.")

    handle = block.register_forward_pre_hook(fail)
    try:
        _, states = generation.run(small.model, RunSpec("any", token_ids=prompt, new_tokens=1))
    finally:
        handle.remove()
    assert not failing
    plain = built.plain_logits(small.model, states.token_ids).numpy()
    np.testing.assert_allclose(states.logits[: len(plain)], plain, atol=1e-5)
