"""The page's first numbers, against the plain model and single vectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import analysis
from analysis.tracing.generation import run
from analysis.tracing.heads import attention_pattern
from analysis.tracing.specs import PatternSpec, RunSpec
from analysis.trajectory.specs import StorySpec
from analysis.trajectory.steps import compute_story
from tests.numerical import reference
from tests.numerical.conftest import Case
from tests.numerical.lens.test_grid import matrices, slow_norm, softmax
from tests.support import built, zoo


@torch.no_grad()
def test_alternatives_and_entropy_equal_the_plain_models(case: Case) -> None:
    result, _ = run(case.model, RunSpec("any", token_ids=case.trace.token_ids))
    logits = built.plain_logits(case.model, result.token_ids).double().numpy()
    for pos in range(len(result.tokens)):
        probs = softmax(logits[pos])
        best = np.argsort(-logits[pos], kind="stable")[:5]
        assert result.top_ids[pos].tolist() == best.tolist()
        np.testing.assert_allclose(result.top_probs[pos], probs[best], rtol=1e-3)
        entropy = -(probs * np.log(probs)).sum()
        assert result.entropy[pos] == pytest.approx(entropy, rel=1e-4, abs=1e-5)
    named = {token.id for token in result.vocabulary}
    assert named >= set(result.top_ids.ravel().tolist())


def test_the_share_of_a_head_is_the_norm_of_its_output(small: Case) -> None:
    slow = reference.forward(small.model.hf, small.trace.token_ids)
    for layer, vectors in enumerate(slow.vectors):
        found = attention_pattern(small.model, small.trace, PatternSpec(layer))
        np.testing.assert_allclose(found.pattern, slow.patterns[layer], atol=1e-5)
        for pos in range(len(small.trace.tokens)):
            norms = [
                np.sqrt((sum(head[pos, key] for key in range(pos + 1)) ** 2).sum())
                for head in vectors
            ]
            np.testing.assert_allclose(found.head_norm[:, pos], norms, rtol=1e-4)
            np.testing.assert_allclose(
                found.head_share[:, pos], np.array(norms) / sum(norms), rtol=1e-4
            )


@torch.no_grad()
def test_the_share_of_a_learned_sink_follows_its_weight() -> None:
    """It is one more entry of the softmax: raised by d, its share s is s·e^d / (1 - s + s·e^d)."""
    ids = (5, 9, 33, 2, 8, 41)
    shares = {}
    for push in (0.0, 1.5, -1e9):
        hf = zoo.make("gpt_oss")
        hf.model.layers[0].self_attn.sinks += push
        model = built.understood(hf, "gpt_oss")
        shares[push] = attention_pattern(model, analysis.trace(model, ids), PatternSpec(0))
    before, raised, without = shares.values()
    assert before.sink.min() > 0.01
    grown = before.sink * np.exp(1.5)
    np.testing.assert_allclose(raised.sink, grown / (1 - before.sink + grown), rtol=1e-4)
    np.testing.assert_allclose(without.sink, 0.0, atol=1e-5)
    rest = without.pattern * (1 - before.sink)[..., None]
    np.testing.assert_allclose(before.pattern, rest, atol=1e-5)


def direct(case: Case, slow: reference.Slow, pos: int, token: int) -> np.ndarray:
    """The factor from a vector in the stream to its direct part of a logit."""
    state, row = slow.rows[-1][pos], matrices(case)[1][token]
    if case.model.info.norm == "LayerNorm":
        norm = case.model.hf.transformer.ln_f
        along = row * norm.weight.double().numpy() / np.sqrt(state.var() + norm.eps)
        return along - along.mean()
    norm = case.model.hf.model.norm
    size = np.sqrt((state**2).mean() + norm.variance_epsilon)
    return row * norm.weight.double().numpy() / size


@pytest.mark.parametrize("token", [5, 7, 200])
def test_the_story_by_hand(small: Case, token: int) -> None:
    """Rows from the lens on plain states; the step and its source from single vectors."""
    slow = reference.forward(small.model.hf, small.trace.token_ids)
    for pos in (2, 8):
        told = compute_story(small.model, small.trace, StorySpec(pos, token, tau=0.01))
        logits = [matrices(small)[1] @ slow_norm(small, row[pos], "full") for row in slow.rows]
        probs = [softmax(row)[token] for row in logits]
        assert told.prob == pytest.approx(probs[-1], rel=1e-3)
        leads = [row[token] == row.max() for row in logits]
        likely = [prob >= 0.01 for prob in probs]
        assert told.first_top1 == (leads.index(True) if any(leads) else None)
        for found, holds in ((told.saturation, leads), (told.emergence, likely)):
            rows = [row for row in range(len(holds)) if all(holds[row:])]
            assert found == (min(rows) if rows else None)
        along = direct(small, slow, pos, token)
        parts = {(layer, None): float(mlp[pos] @ along) for layer, mlp in enumerate(slow.mlp)}
        for layer, vectors in enumerate(slow.vectors):
            for head, vector in enumerate(vectors):
                parts[layer, head] = float(vector[pos].sum(0) @ along)
        assert told.step_logit == pytest.approx(max(parts.values()), abs=2e-4)
        assert (told.step_layer, told.step_head) == max(parts, key=parts.__getitem__)
        if told.step_head is not None:
            vector = slow.vectors[told.step_layer][told.step_head, pos, : pos + 1]
            assert told.step_source == int((vector @ along).argmax())
