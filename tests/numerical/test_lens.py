"""Every way of reading a state against a plain loop over cells."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import analysis
from analysis.lens_math import top_k
from tests.numerical.conftest import Case


def slow_norm(case: Case, state: np.ndarray, mode: str) -> np.ndarray:
    x = state.astype(np.float64)
    if mode == "none":
        return x
    hf = case.model.hf
    if case.model.info.norm == "LayerNorm":
        norm = hf.transformer.ln_f
        unit = (x - x.mean()) / math.sqrt(x.var() + norm.eps)
        bias = norm.bias.double().numpy()
    else:
        norm = hf.model.norm
        unit = x / math.sqrt((x * x).mean() + norm.variance_epsilon)
        bias = 0.0
    return unit if mode == "unit" else unit * norm.weight.double().numpy() + bias


def matrices(case: Case) -> tuple[np.ndarray, np.ndarray]:
    hf = case.model.hf
    return (
        hf.get_input_embeddings().weight.double().numpy(),
        hf.get_output_embeddings().weight.double().numpy(),
    )


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def slow_share(decoder: str, row: int, last: int) -> float:
    return {"output": 1.0, "input": 0.0, "linear": row / last, "quadratic": (row / last) ** 2}[
        decoder
    ]


@pytest.mark.parametrize("norm", ["none", "unit", "full"])
@pytest.mark.parametrize("decoder", ["output", "input", "linear", "quadratic"])
def test_cells_by_hand(small: Case, decoder: str, norm: str) -> None:
    target = 7
    grid = analysis.decode(small.model, small.trace, decoder=decoder, norm=norm, k=4, target=target)
    e_in, e_out = matrices(small)
    last = small.model.info.layers
    final = [softmax(row.astype(np.float64)) for row in small.trace.logits]
    for row in range(last + 1):
        s = slow_share(decoder, row, last)
        for pos in (0, 4, 8):
            logits = ((1 - s) * e_in + s * e_out) @ slow_norm(
                small, small.trace.resid[row, pos], norm
            )
            probs = softmax(logits)
            best = np.argsort(-logits, kind="stable")[:4]
            assert grid.token_ids[row, pos].tolist() == best.tolist()
            np.testing.assert_allclose(grid.probs[row, pos], probs[best], rtol=1e-4)
            np.testing.assert_allclose(grid.scores[row, pos], logits[best], rtol=1e-4, atol=1e-4)
            assert grid.entropy[row, pos] == pytest.approx(-(probs * np.log(probs)).sum(), abs=1e-4)
            kl = (final[pos] * (np.log(final[pos]) - np.log(probs))).sum()
            assert grid.kl_to_final[row, pos] == pytest.approx(kl, abs=2e-4)
            assert grid.target_prob[row, pos] == pytest.approx(probs[target], rel=1e-4)
            assert grid.target_rank[row, pos] == (logits > logits[target]).sum()


def test_the_higher_top_probability_wins(llama: Case) -> None:
    both = [analysis.decode(llama.model, llama.trace, decoder=name) for name in ("output", "input")]
    grid = analysis.decode(llama.model, llama.trace, decoder="max_probability")
    wins = both[1].probs[..., 0] > both[0].probs[..., 0]
    assert np.array_equal(grid.chosen, wins.astype(int))
    assert 0 < wins.sum() < wins.size
    wanted = np.where(wins[..., None], both[1].token_ids, both[0].token_ids)
    assert np.array_equal(grid.token_ids, wanted)


def test_decoders_coincide_on_a_tied_model(gpt2: Case) -> None:
    grids = [
        analysis.decode(gpt2.model, gpt2.trace, decoder=name)
        for name in ("output", "input", "linear", "quadratic", "max_probability")
    ]
    for grid in grids[1:]:
        assert np.array_equal(grid.token_ids, grids[0].token_ids)
        np.testing.assert_allclose(grid.probs, grids[0].probs, rtol=1e-5)


@pytest.mark.parametrize(
    "component", ["attention_output", "mlp_output", "mid_residual", "head_output"]
)
def test_components_are_read_by_the_same_lens(small: Case, component: str) -> None:
    head = 1 if component == "head_output" else None
    grid = analysis.decode(small.model, small.trace, component=component, head=head, positions=[6])
    assert grid.rows.tolist() == list(range(small.model.info.layers))
    trace, (_, e_out) = small.trace, matrices(small)
    for layer in range(small.model.info.layers):
        states = {
            "attention_output": trace.attn_out[layer, 6],
            "mlp_output": trace.mlp_out[layer, 6],
            "mid_residual": trace.resid[layer, 6] + trace.attn_out[layer, 6],
            "head_output": analysis.head_output(small.model, trace, layer, 1)[6],
        }
        logits = e_out @ slow_norm(small, states[component], "full")
        assert grid.token_ids[layer, 0, 0] == logits.argmax()
        assert grid.probs[layer, 0, 0] == pytest.approx(softmax(logits).max(), rel=1e-4)


@pytest.mark.parametrize("kind", ["cosine", "euclidean"])
def test_similarities_by_hand(small: Case, kind: str) -> None:
    grid = analysis.decode(small.model, small.trace, similarity=kind, k=3, target=[5, 9])
    _, rows = matrices(small)
    assert np.isnan(grid.probs).all()
    for row, pos in ((0, 0), (2, 5), (3, 8)):
        state = slow_norm(small, small.trace.resid[row, pos], "full")
        if kind == "cosine":
            scores = rows @ state / np.linalg.norm(rows, axis=1) / np.linalg.norm(state)
            order = np.argsort(-scores, kind="stable")
        else:
            scores = np.linalg.norm(rows - state, axis=1)
            order = np.argsort(scores, kind="stable")
        assert grid.token_ids[row, pos].tolist() == order[:3].tolist()
        np.testing.assert_allclose(grid.scores[row, pos], scores[order[:3]], rtol=1e-4)
        ranks = [int(np.flatnonzero(order == token)[0]) for token in (5, 9)]
        assert grid.target_rank[row, pos].tolist() == ranks


def slow_subtraction(case: Case, state: np.ndarray, k: int) -> list[int]:
    _, rows = matrices(case)
    found: list[int] = []
    before = math.inf
    for _ in range(k):
        size = float(np.linalg.norm(state))
        if size <= 0.01 or size >= before:
            break
        before = size
        token = int((rows @ slow_norm(case, state, "full")).argmax())
        if token not in found:
            found.append(token)
        state = state - rows[token]
    return found


def slow_pursuit(case: Case, state: np.ndarray, k: int) -> tuple[list[int], list[float]]:
    _, rows = matrices(case)
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    tokens, shares, whole = [], [], float(state @ state)
    for _ in range(k):
        products = units @ state
        token = int(products.argmax())
        if products[token] <= 0:
            break
        state = state - products[token] * units[token]
        tokens.append(token)
        shares.append(1 - float(state @ state) / whole)
    return tokens, shares


@pytest.mark.parametrize("method", ["subtraction", "matching_pursuit"])
def test_secondary_tokens_by_hand(small: Case, method: str) -> None:
    grid = analysis.decode(small.model, small.trace, candidates=method, k=6)
    plain = analysis.decode(small.model, small.trace, k=1)
    for row, pos in ((0, 2), (1, 5), (3, 8)):
        state = small.trace.resid[row, pos].astype(np.float64)
        if method == "subtraction":
            wanted = slow_subtraction(small, state, 6)
            assert grid.probs[row, pos, 0] == pytest.approx(plain.probs[row, pos, 0], rel=1e-4)
        else:
            wanted, shares = slow_pursuit(small, state, 6)
            np.testing.assert_allclose(grid.explained[row, pos, : len(shares)], shares, atol=1e-4)
        padded = wanted + [-1] * (6 - len(wanted))
        assert grid.token_ids[row, pos].tolist() == padded
        assert np.isnan(grid.probs[row, pos, 1:]).all()


def test_parts_of_a_grid_are_the_grid(small: Case) -> None:
    whole = analysis.decode(small.model, small.trace)
    part = analysis.decode(small.model, small.trace, rows=[3, 1], positions=[-1, 2])
    assert part.rows.tolist() == [3, 1]
    assert part.positions.tolist() == [8, 2]
    assert np.array_equal(part.token_ids, whole.token_ids[np.ix_([3, 1], [8, 2])])
    np.testing.assert_allclose(part.entropy, whole.entropy[np.ix_([3, 1], [8, 2])], rtol=1e-5)


def test_one_target_and_a_list(small: Case) -> None:
    one = analysis.decode(small.model, small.trace, target=5)
    several = analysis.decode(small.model, small.trace, target=[5])
    assert one.target_prob.shape == one.entropy.shape
    assert several.target_prob.shape == (*several.entropy.shape, 1)


@pytest.mark.parametrize("vocab", [5, 300, 256 * 40, 256 * 40 + 17])
def test_top_k_is_exact(vocab: int) -> None:
    logits = torch.randn(11, vocab, generator=torch.Generator().manual_seed(vocab))
    values, found = top_k(logits, 5)
    wanted = logits.topk(5, -1)
    assert torch.equal(values, wanted.values)
    assert torch.equal(found, wanted.indices)


def test_entropy_where_probabilities_underflow(llama: Case) -> None:
    from analysis.lens_math import row_stats

    logits = torch.full((1, 600), -1e30)
    logits[0, 3] = 5.0
    stats = row_stats(logits, 2, torch.tensor([[3]]))
    assert float(stats.entropy) == 0.0
    assert float(stats.target_probs) == 1.0


def test_options_that_mean_nothing(small: Case) -> None:
    for options in (
        {"decoder": "wrong"}, {"norm": "l2"}, {"rows": [99]}, {"positions": [-99]}, {"k": 0},
        {"component": "head_output"}, {"target": 10**6},
    ):  # fmt: skip
        with pytest.raises(analysis.AnalysisError):
            analysis.decode(small.model, small.trace, **options)
