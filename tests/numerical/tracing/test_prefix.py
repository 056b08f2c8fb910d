"""Generation that goes on from a known prefix gives the tokens of a whole pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import analysis
from analysis.tracing import generation
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
