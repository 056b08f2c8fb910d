"""The identities that every picture stands on, on small and on real models."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import analysis
from tests.numerical import reference
from tests.numerical.conftest import Case
from tests.support import built


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def test_capture_changes_no_logit(case: Case) -> None:
    plain = built.plain_logits(case.model, case.trace.token_ids).numpy()
    assert np.array_equal(plain, case.trace.logits)


def test_rows_are_sums_of_what_is_written(case: Case) -> None:
    trace = case.trace
    for layer in range(case.model.info.layers):
        total = trace.resid[layer] + trace.attn_out[layer] + trace.mlp_out[layer]
        assert relative(total, trace.resid[layer + 1]) < 1e-5


def test_rows_equal_hugging_face_hidden_states(case: Case) -> None:
    """All but the last, which transformers gives after the final norm."""
    with torch.no_grad():
        output = case.model.hf(
            torch.tensor([case.trace.token_ids]), output_hidden_states=True, use_cache=False
        )
    theirs = [state[0].numpy() for state in output.hidden_states]
    for row in range(case.model.info.layers):
        assert np.array_equal(theirs[row], case.trace.resid[row])
    final = case.model.readout.norm(torch.from_numpy(case.trace.resid[-1])).numpy()
    assert relative(final, theirs[-1]) < 1e-5


def test_a_forward_pass_by_hand_gives_the_same_states(small: Case) -> None:
    slow = reference.forward(small.model.hf, small.trace.token_ids)
    assert relative(small.trace.resid, np.stack(slow.rows)) < 1e-5
    assert relative(small.trace.attn_out, np.stack(slow.attn)) < 1e-5
    assert relative(small.trace.mlp_out, np.stack(slow.mlp)) < 1e-5
    assert relative(small.trace.pattern, np.stack(slow.patterns)) < 1e-5


def test_lens_at_the_last_row_is_the_model(case: Case) -> None:
    last = case.model.info.layers
    grid = analysis.decode(case.model, case.trace, k=7, rows=[last])
    logits = torch.from_numpy(case.trace.logits)
    wanted = torch.softmax(logits.double(), -1)
    assert np.array_equal(grid.token_ids[0], logits.topk(7, -1).indices.numpy())
    np.testing.assert_allclose(grid.probs[0], wanted.topk(7, -1).values, rtol=2e-4)
    entropy = -(wanted * wanted.log()).sum(-1)
    np.testing.assert_allclose(grid.entropy[0], entropy, rtol=2e-4, atol=1e-5)
    assert grid.kl_to_final[0].max() < 1e-4


def test_patterns_are_causal_and_sum_to_one(case: Case) -> None:
    pattern = case.trace.pattern
    np.testing.assert_allclose(pattern.sum(-1), 1.0, atol=1e-5)
    assert np.all(np.triu(pattern, 1) == 0.0)


def test_heads_and_bias_sum_to_attention(case: Case) -> None:
    for layer in range(case.model.info.layers):
        heads = analysis.head_output(case.model, case.trace, layer)
        bias = analysis.attention_bias(case.model, case.trace, layer)
        assert relative(heads.sum(0) + bias, case.trace.attn_out[layer]) < 1e-5
        one = analysis.head_output(case.model, case.trace, layer, head=2)
        assert np.array_equal(one, heads[2])


def test_a_head_by_hand(small: Case) -> None:
    slow = reference.forward(small.model.hf, small.trace.token_ids)
    for layer, vectors in enumerate(slow.vectors):
        heads = analysis.head_output(small.model, small.trace, layer)
        assert relative(heads, vectors.sum(2)) < 1e-5
        assert relative(analysis.attention_bias(small.model, small.trace, layer)[0] + 1.0,
                        slow.biases[layer] + 1.0) < 1e-6  # fmt: skip


@pytest.mark.parametrize("foil", [None, 17])
def test_attribution_sums_to_the_logit(case: Case, foil: int | None) -> None:
    token = 3
    parts = analysis.attribute(case.model, case.trace, position=-1, token=token, foil=foil)
    logits = case.trace.logits[-1].astype(np.float64)
    wanted = logits[token] - (0.0 if foil is None else logits[foil])
    assert parts.total == pytest.approx(wanted, abs=1e-4 * np.abs(logits).max())


def test_attribution_by_hand(small: Case) -> None:
    """Each head's part is its vector through the final norm with the last state's scale."""
    trace, hf = small.trace, small.model.hf
    slow = reference.forward(hf, trace.token_ids)
    state = slow.rows[-1][-1]
    row = hf.get_output_embeddings().weight[3].double().numpy()
    if small.model.info.norm == "LayerNorm":
        norm = hf.transformer.ln_f
        scale = norm.weight.double().numpy() / np.sqrt(state.var() + norm.eps)
    else:
        norm = hf.model.norm
        scale = norm.weight.double().numpy() / np.sqrt((state**2).mean() + norm.variance_epsilon)
    centre = small.model.info.norm == "LayerNorm"
    parts = analysis.attribute(small.model, trace, position=-1, token=3)
    for layer in range(small.model.info.layers):
        for head in range(small.model.info.heads):
            vector = slow.vectors[layer][head, -1].sum(0)
            vector = vector - vector.mean() if centre else vector
            found = parts.heads[layer, head]
            assert found == pytest.approx(vector @ (scale * row), abs=2e-4)


def test_info_says_whether_embeddings_are_tied(gpt2: Case, llama: Case) -> None:
    assert gpt2.model.info.tied_embeddings is True
    assert llama.model.info.tied_embeddings is False
    assert llama.model.info.kv_heads == 2
    assert not gpt2.model.info.parallel_blocks
