"""The comparison of two prompts against a softmax of each state, one state at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import analysis
from analysis import codec
from analysis.errors import PromptError, SpecError
from analysis.experiments import comparison
from analysis.experiments.specs import PromptSpec
from analysis.export.sheets import one_frame
from tests.numerical.experiments.by_hand import CLEAN, CORRUPTED, Case
from tests.support import built, tiny

FOLLOWED = (4, 9)


def decoded(case: Case, ids: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """[row, pos, vocab] probabilities of every state by the logit lens."""
    trace = analysis.trace(case.model, ids)
    return np.stack([
        torch.softmax(case.model.readout.logits(torch.from_numpy(row)).double(), -1).numpy()
        for row in trace.resid
    ])  # fmt: skip


def test_every_cell_equals_a_softmax_of_its_states(case: Case) -> None:
    found = analysis.compare(case.model, CLEAN, CORRUPTED, tokens=FOLLOWED)
    p, q = decoded(case, CLEAN), decoded(case, CORRUPTED)
    assert found.pairs.tolist() == [[n, n] for n in (0, 1, 3, 4, 6, 7)]
    for row in range(len(p)):
        for pair, (i, j) in enumerate(found.pairs.tolist()):
            one, other = p[row, i], q[row, j]
            there = sum(a * np.log(a / b) for a, b in zip(one, other, strict=True))
            back = sum(b * np.log(b / a) for a, b in zip(one, other, strict=True))
            assert found.kl[row, pair] == pytest.approx(there, abs=1e-5)
            assert found.kl_back[row, pair] == pytest.approx(back, abs=1e-5)
            assert found.a_probs[row, pair] == pytest.approx(one[list(FOLLOWED)], abs=1e-6)
            assert found.b_probs[row, pair] == pytest.approx(other[list(FOLLOWED)], abs=1e-6)
            assert found.a_top[row, pair] == one.argmax()
            assert found.b_top[row, pair] == other.argmax()
    assert (found.kl[:, :2] == 0).all()  # the runs are equal up to the first difference


def test_the_last_positions_are_compared_whatever_their_tokens_are(case: Case) -> None:
    found = analysis.compare(case.model, (5, 9, 33), (5, 9, 33, 2, 8))
    assert found.pairs.tolist() == [[0, 0], [1, 1], [2, 4]]
    last = [int(case.model.hf(torch.tensor([ids])).logits[0, -1].argmax())
            for ids in ((5, 9, 33), (5, 9, 33, 2, 8))]  # fmt: skip
    assert [int(found.a_top[-1, -1]), int(found.b_top[-1, -1])] == last
    assert set(found.followed) == set(last)


def test_positions_of_prompts_of_equal_length_can_be_paired(case: Case) -> None:
    by_token = analysis.compare(case.model, CLEAN, CORRUPTED, tokens=FOLLOWED)
    found = analysis.compare(case.model, CLEAN, CORRUPTED, tokens=FOLLOWED, alignment="position")
    assert found.pairs.tolist() == [[n, n] for n in range(len(CLEAN))]
    same = [n for n, (i, j) in enumerate(found.pairs.tolist()) if CLEAN[i] == CORRUPTED[j]]
    np.testing.assert_allclose(found.kl[:, same], by_token.kl, atol=1e-6)
    with pytest.raises(SpecError, match="2 and 3 tokens"):
        analysis.compare(case.model, (1, 2), (1, 2, 3), alignment="position")


def test_a_comparison_survives_the_codec_and_equals_that_of_its_spec(case: Case) -> None:
    spec = PromptSpec(case.model.info.name, "abcd", "abed", ("x",))
    found = comparison.compute(case.model, spec, None, 100)
    again = codec.decode(codec.encode(found))
    assert np.array_equal(again.kl, found.kl)
    direct = analysis.compare(case.model, "abcd", "abed", tokens="x")
    assert np.array_equal(direct.a_probs, found.a_probs)
    assert len(one_frame(found).rows) == found.kl.size


def test_bad_input_is_named(case: Case) -> None:
    with pytest.raises(SpecError, match="no token in common"):
        analysis.compare(case.model, (1, 2), (3, 4))
    with pytest.raises(PromptError, match=r"^Prompt A can't be read"):
        analysis.compare(case.model, "", "x")
    with pytest.raises(PromptError, match=r"^The followed token 'xyz' is 3 tokens"):
        analysis.compare(case.model, "ab", "ac", tokens="xyz")
    with pytest.raises(SpecError, match=r"^Prompt B is empty"):
        PromptSpec("m", "a", "")
    with pytest.raises(PromptError, match=r"^Prompt B has 6 tokens"):
        comparison.compute(case.model, PromptSpec("m", "a", "abcdef"), None, 5)


def test_two_models_are_compared_on_one_prompt() -> None:
    first = built.understood(tiny.tiny_gpt2(), "first")
    second = built.understood(tiny.tiny_gpt2(seed=1), "second")
    found = analysis.compare(first, CLEAN, other=second, tokens=FOLLOWED, alignment="position")
    states = [decoded(Case(model, ()), CLEAN) for model in (first, second)]
    p, q = (one for one in states)
    assert found.kl == pytest.approx((p * np.log(p / q)).sum(-1), abs=1e-5)
    assert found.kl_back == pytest.approx((q * np.log(q / p)).sum(-1), abs=1e-5)
    assert found.kl.min() > 1e-4
    assert found.b_probs == pytest.approx(q[..., list(FOLLOWED)], abs=1e-6)
    assert (analysis.compare(first, CLEAN, other=first).kl == 0).all()


def test_a_model_in_another_dtype_differs_by_rounding() -> None:
    exact, rounded = (built.understood(tiny.tiny_llama().to(dtype), str(dtype))
                      for dtype in (torch.float32, torch.bfloat16))  # fmt: skip
    found = analysis.compare(exact, CLEAN, other=rounded, alignment="position")
    assert 0 < found.kl[-1].max() < 0.01


def test_models_that_do_not_fit_together_are_refused() -> None:
    one, other = (built.understood(make(), name) for make, name in (
        (tiny.tiny_gpt2, "one"), (tiny.tiny_llama, "other"),
    ))  # fmt: skip
    if one.info.layers != other.info.layers:
        with pytest.raises(SpecError, match="layers"):
            analysis.compare(one, CLEAN, other=other)
    twin = built.understood(tiny.tiny_gpt2(), "twin")
    twin.tokenizer = Backwards(one.tokenizer)
    with pytest.raises(SpecError, match="tokenizers of the models read Prompt A as different"):
        analysis.compare(one, "abcd", other=twin)


class Backwards:
    """A tokenizer that reads texts from their end."""

    def __init__(self, own: Any) -> None:
        self.own = own

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)

    def __call__(self, text: str, **options: Any) -> Any:
        return self.own(text[::-1], **options)
