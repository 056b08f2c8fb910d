"""When tokens emerge, against loops over the lens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import analysis
from analysis.tracing.interventions import Ablate
from analysis.trajectory import emergence
from analysis.trajectory.emergence import causal_commit
from analysis.trajectory.specs import StorySpec
from analysis.trajectory.steps import compute_story, first_row, staying_row
from tests.numerical.conftest import Case
from tests.support import built, zoo


def test_rows_of_emergence_by_hand(case: Case) -> None:
    found = analysis.emergence(case.model, case.trace, tau=0.3)
    tokens = case.trace.logits.argmax(-1)
    assert found.token_ids.tolist() == tokens.tolist()
    for pos, token in enumerate(tokens):
        grid = analysis.decode(case.model, case.trace, target=int(token), positions=[pos])
        probs, ranks = grid.target_prob[:, 0], grid.target_rank[:, 0]
        np.testing.assert_allclose(found.probs[:, pos], probs, rtol=1e-3, atol=1e-6)
        rows = range(len(probs))
        top = [row for row in rows if ranks[row] == 0]
        stays = [row for row in rows if all(p >= 0.3 for p in probs[row:])]
        leads = [row for row in rows if all(r == 0 for r in ranks[row:])]
        assert found.first_top1[pos] == min(top, default=None)
        assert found.emergence[pos] == min(stays, default=None)
        assert found.saturation[pos] == min(leads, default=None)


def test_the_final_choice_saturates_at_the_last_row_at_the_latest(case: Case) -> None:
    found = analysis.emergence(case.model, case.trace)
    assert all(row is not None for row in found.saturation)


@pytest.mark.parametrize(
    ("holds", "first", "staying"),
    [
        ([0, 0, 0], None, None),
        ([1, 0, 1], 0, 2),
        ([0, 1, 1], 1, 1),
        ([1, 1, 1], 0, 0),
        ([1, 1, 0], 0, None),
    ],
)
def test_first_and_staying_rows(holds: list[int], first: int | None, staying: int | None) -> None:
    values = np.array(holds, bool)
    assert first_row(values) == first
    assert staying_row(values) == staying


def test_the_story_names_the_largest_step(small: Case) -> None:
    token = 5
    told = compute_story(small.model, small.trace, StorySpec(position=-1, token=token))
    parts = analysis.attribute(small.model, small.trace, token=token)
    largest = max(float(parts.heads.max()), float(parts.mlps.max()))
    assert told.step_logit == pytest.approx(largest)
    if told.step_head is None:
        assert parts.mlps[told.step_layer] == pytest.approx(largest)
    else:
        assert parts.heads[told.step_layer, told.step_head] == pytest.approx(largest)
        assert told.step_source is not None


def test_the_story_of_the_real_model(smollm: Case) -> None:
    told = compute_story(smollm.model, smollm.trace, StorySpec())
    assert told.token.text == " Paris"
    assert told.prob > 0.5
    assert told.saturation is not None


def test_tau_is_a_probability(small: Case) -> None:
    with pytest.raises(analysis.AnalysisError, match="probability"):
        analysis.emergence(small.model, small.trace, tau=1.5)


def test_causal_commit_by_hand(small: Case) -> None:
    """One pass for each row and position, edited by the test's hook."""
    hf, trace = small.model.hf, small.trace
    blocks = hf.transformer.h if small.model.info.architecture == "gpt2" else hf.model.layers
    found = analysis.emergence(small.model, trace).causal_commit
    assert found is not None
    for pos in (0, 3, 8):
        choice = trace.logits[pos].argmax()
        keeps = []
        for row in range(len(blocks) + 1):
            handles = [
                (block.attn if hasattr(block, "attn") else block.self_attn).register_forward_hook(
                    lambda module, args, out, pos=pos: (
                        out[0].index_fill(1, torch.tensor([pos]), 0.0),
                        *out[1:],
                    )
                )
                for block in blocks[row:]
            ]
            keeps.append(
                bool(built.plain_logits(small.model, trace.token_ids)[pos].argmax() == choice)
            )
            for handle in handles:
                handle.remove()
        wanted = min(row for row in range(len(keeps)) if all(keeps[row:]))
        assert found[pos] == wanted


@pytest.mark.parametrize("kind", ["gpt_neox", "gemma2", "jamba", "bloom", "opt", "deepseek_v3"])
def test_one_pass_for_all_positions_equals_one_for_each(kind: str) -> None:
    """Zeroing attention everywhere gives the same result as zeroing at one position."""
    model = built.understood(zoo.make(kind), kind)
    trace = analysis.trace(model, (5, 9, 33, 2, 8, 41))
    found = analysis.emergence(model, trace).causal_commit
    assert found is not None
    for pos in (0, 3, 5):
        keeps = []
        for row in range(model.info.layers + 1):
            edits = [
                Ablate("attention_output", layer, pos=pos)
                for layer in range(row, model.info.layers)
            ]
            changed = analysis.trace(model, trace.token_ids, edits)
            keeps.append(changed.logits[pos].argmax() == trace.logits[pos].argmax())
        assert found[pos] == min(row for row in range(len(keeps)) if all(keeps[row:]))


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "gemma2", "jamba", "bloom", "deepseek_v3"])
def test_rows_that_run_in_one_pass_give_what_each_gives_alone(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few positions take several rows at once; the model's modules are looked at once."""
    model = built.understood(zoo.make(kind), kind)
    trace = analysis.trace(model, (5, 9, 33, 2, 8, 41, 7, 50, 12))
    monkeypatch.setattr(emergence, "TOGETHER", 0)
    wanted = causal_commit(model, trace, range(9))
    assert len(set(wanted)) > 1
    for together in (3, 8, 100):
        monkeypatch.setattr(emergence, "TOGETHER", together)
        assert causal_commit(model, trace, range(9)) == wanted
        assert causal_commit(model, trace, [6, 2]) == (wanted[6], wanted[2])
        assert [causal_commit(model, trace, [pos])[0] for pos in range(9)] == list(wanted)


def test_causal_commit_is_optional(small: Case) -> None:
    assert analysis.emergence(small.model, small.trace, causal=False).causal_commit is None
