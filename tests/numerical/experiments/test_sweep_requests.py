"""What a sweep may be asked for: defaults, alignment, refusals, progress, and its spec."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import analysis
from analysis import codec
from analysis.contract import jobs
from analysis.errors import BackwardError, CancelledError, PromptError, SpecError
from analysis.experiments import sweep
from analysis.experiments.specs import SweepSpec
from analysis.export.sheets import one_frame
from tests.numerical.experiments.by_hand import ANSWER, CLEAN, CORRUPTED, FOIL, Case, hooked, swept


def test_a_sweep_survives_the_codec_and_equals_that_of_its_spec(case: Case) -> None:
    spec = SweepSpec(case.model.info.name, "abcd", "abed", "x", "y", axes="head")
    found = sweep.compute(case.model, spec, None, 100)
    again = codec.decode(codec.encode(found))
    assert np.array_equal(again.effect, found.effect)
    assert again.answer == found.answer
    direct = analysis.sweep(case.model, "abcd", "abed", answer="x", foil="y", axes="head")
    assert np.array_equal(direct.raw, found.raw)
    table = one_frame(found)
    assert list(table.columns) == ["layer", "head", "metric", "effect", "measured"]
    assert len(table.rows) == found.raw.size
    assert abs(table.rows[0][3]) == pytest.approx(np.abs(found.effect).max())


def test_without_answer_and_foil_the_top_tokens_of_the_runs_are_taken(case: Case) -> None:
    tops = [
        int(case.model.hf(torch.tensor([ids])).logits[0, -1].argmax()) for ids in (CLEAN, CORRUPTED)
    ]
    if tops[0] == tops[1]:
        with pytest.raises(SpecError, match="foil is the same token as the answer"):
            analysis.sweep(case.model, CLEAN, CORRUPTED)
    else:
        found = analysis.sweep(case.model, CLEAN, CORRUPTED)
        assert [found.answer.id, found.foil.id] == tops


def test_prompts_of_different_length_are_refused_unless_aligned(case: Case) -> None:
    longer = (*CORRUPTED[:4], 50, *CORRUPTED[4:])
    for direction in ("denoise", "noise"):  # the clean prompt's length comes first in both
        with pytest.raises(SpecError, match="have 8 and 9 tokens"):
            analysis.sweep(case.model, CLEAN, longer, answer=ANSWER, foil=FOIL, direction=direction)
    found = analysis.sweep(case.model, CLEAN, longer, answer=ANSWER, foil=FOIL, alignment="token")
    assert found.partners.tolist() == [0, 1, -1, 3, -1, 4, -1, 6, 7]
    assert np.isnan(found.raw[:, found.partners < 0]).all()
    assert np.isfinite(found.raw[:, found.partners >= 0]).all()
    assert found.effect[-1, -1] == pytest.approx(1.0, abs=1e-5)
    kept: list[Tensor] = []
    block = case.parts[1].block
    with torch.no_grad():
        with hooked(block, lambda state: kept.append(state.clone()), "out"):
            case.model.hf(torch.tensor([CLEAN]))
        with hooked(block, lambda state: state[5].copy_(kept[0][4]), "out"):
            logits = case.model.hf(torch.tensor([longer])).logits[0, -1]
    assert found.raw[2, 5] == pytest.approx(float(logits[ANSWER] - logits[FOIL]), abs=1e-5)


def test_bad_input_gets_one_sentence_that_names_the_field(case: Case) -> None:
    def refused(kind: type[Exception], text: str, *prompts: Any, **options: Any) -> None:
        chosen = {"answer": ANSWER, "foil": FOIL, **options}
        with pytest.raises(kind, match=text):
            analysis.sweep(case.model, *(prompts or (CLEAN, CORRUPTED)), **chosen)

    refused(PromptError, "^The answer 'xyz' is 3 tokens", answer="xyz")
    refused(PromptError, "^The foil 'xyz' is 3 tokens", foil="xyz")
    refused(SpecError, "^The foil is the same token", foil=ANSWER)
    refused(SpecError, "^The answer 99999 does not exist", answer=99999)
    refused(PromptError, "^The clean prompt can't be read", "", "a")
    refused(PromptError, "^The corrupted prompt can't be read", "a", "")
    refused(SpecError, "^Layer 9 does not exist", axes="head_position", layer=9)
    refused(SpecError, "no axes of a sweep 'x'", axes="x")
    refused(SpecError, "so no patch can change it", CLEAN, CLEAN)
    refused(SpecError, "rank has no gradient", metric="rank", exact=False)
    refused(SpecError, "estimates nothing", metric="kl", direction="noise", exact=False)


def test_a_model_that_cant_run_backward_is_refused(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: Any, **_options: Any) -> Any:
        raise RuntimeError("derivative for aten::foo is not implemented\nmore")

    monkeypatch.setattr(torch.autograd, "grad", broken)
    with pytest.raises(BackwardError, match="can't run backward, as an estimate needs: derivative"):
        swept(case, exact=False)


def test_a_prompt_beyond_the_servers_limit_is_refused(case: Case) -> None:
    spec = SweepSpec(case.model.info.name, "abcd", "abcdefgh", "x", "y")
    with pytest.raises(PromptError, match=r"^The corrupted prompt has 8 tokens"):
        sweep.compute(case.model, spec, None, 5)


def test_a_sweep_reports_its_progress_and_stops_when_it_is_cancelled(case: Case) -> None:
    seen: list[tuple[int, int]] = []

    def listen(done: int, total: int, label: str) -> None:
        if label == "Patching cells":
            seen.append((done, total))
            if done > 10:
                raise CancelledError

    with pytest.raises(CancelledError), jobs.listening(listen):
        swept(case)
    assert 10 < seen[-1][0] < seen[-1][1]
    assert all("forward" not in vars(part.block) for part in case.parts)


def test_text_without_tokens_in_the_model_is_refused(adder: Any) -> None:
    with pytest.raises(PromptError, match="The clean prompt has 5 unknown tokens of 5"):
        analysis.sweep(adder, "hello", "world")
    with pytest.raises(PromptError, match="Prompt B has 1 unknown token of 4"):
        analysis.compare(adder, "1+2=", "1x2=")
