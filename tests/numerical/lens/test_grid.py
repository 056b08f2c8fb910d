"""Every way to decode a state, against a plain loop over cells."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

import analysis
from analysis.lens.cells import Reader, similarity
from analysis.lens.options import DECODERS
from tests.numerical.conftest import Case
from tests.support import built, zoo


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
    s = row / last
    return {"output": 1.0, "input": 0.0, "linear": s, "quadratic": s**2, "midpoint": 0.5}[decoder]


#: Decoders whose matrix is a mix of the output and the input matrix.
MIXES = [name for name, one in DECODERS.items() if one.single and name != "learned"]


@pytest.mark.parametrize("norm", ["none", "unit", "full"])
@pytest.mark.parametrize("decoder", MIXES)
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
        for name in (*MIXES, "max_probability")
    ]
    for grid in grids[1:]:
        assert np.array_equal(grid.token_ids, grids[0].token_ids)
        np.testing.assert_allclose(grid.probs, grids[0].probs, rtol=1e-5)


@pytest.mark.parametrize(
    "component",
    ["attention_output", "mlp_output", "mid_residual", "head_output", "block_increment"],
)
def test_components_are_decoded_by_the_same_lens(small: Case, component: str) -> None:
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
            "block_increment": trace.resid[layer + 1, 6] - trace.resid[layer, 6],
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


@pytest.mark.parametrize("method", ["subtraction", "matching_pursuit"])
def test_peeling_all_cells_together_equals_peeling_each(small: Case, method: str) -> None:
    grid = analysis.decode(small.model, small.trace, candidates=method, k=8)
    slow = slow_subtraction if method == "subtraction" else slow_pursuit
    lengths = set()
    for row in range(4):
        for pos in range(9):
            state = small.trace.resid[row, pos].astype(np.float64)
            wanted = slow(small, state, 8)
            tokens = wanted if method == "subtraction" else wanted[0]
            assert grid.token_ids[row, pos].tolist() == tokens + [-1] * (8 - len(tokens))
            lengths.add(len(tokens))
    assert len(lengths) > 1 or method == "matching_pursuit"


@pytest.mark.parametrize("method", ["subtraction", "matching_pursuit"])
def test_the_candidates_are_those_of_the_more_certain_decoder(llama: Case, method: str) -> None:
    """If the input decoder wins a cell, its candidates use the input decoder's rows."""
    model, trace = llama.model, llama.trace
    grid = analysis.decode(model, trace, decoder="max_probability", candidates=method)
    each = [
        analysis.decode(model, trace, decoder=name, candidates=method)
        for name in ("output", "input")
    ]
    assert 0 < grid.chosen.sum() < grid.chosen.size
    for name in ("token_ids", "probs", "scores", "explained"):
        values = [getattr(one, name) for one in (grid, *each)]
        wanted = np.where(grid.chosen[..., None] == 1, values[2], values[1])
        np.testing.assert_allclose(values[0], wanted, rtol=1e-4, atol=1e-5)
    surest = analysis.decode(model, trace, decoder="max_probability")
    assert np.array_equal(grid.chosen, surest.chosen)


def test_a_small_distance_keeps_its_digits(llama: Case) -> None:
    """In float32, ``|h|^2 + |e|^2 - 2 h.e`` would be only rounding error."""
    near = dataclasses.replace(llama.model.readout, unembedding=scaled(llama, 100.0))
    rows = near.output_rows.double()
    state = (rows[3] + 1e-5 * rows[4]).float()[None]
    found = similarity(Reader(near, 1.0), state, "euclidean")[0]
    np.testing.assert_allclose(found, (rows - state.double()).norm(dim=-1), rtol=1e-5)
    assert found.argmin() == 3


def scaled(case: Case, factor: float) -> torch.nn.Linear:
    """The unembedding with every row scaled by a factor."""
    rows = case.model.readout.output_rows
    made = torch.nn.Linear(rows.shape[1], rows.shape[0], bias=False)
    made.weight = torch.nn.Parameter(factor * rows.detach(), requires_grad=False)
    return made


#: Tied and untied, LayerNorm and RMSNorm (scale, scale - 1, none stored), soft-capped, scaled
#: logits, a bias in the unembedding, parallel blocks.
READOUTS = {
    "gpt2": ("LayerNorm", True), "llama": ("RMSNorm", False), "gemma": ("RMSNorm", True),
    "gemma2": ("RMSNorm", True), "gpt_neox": ("LayerNorm", False), "phi": ("LayerNorm", False),
    "cohere": ("LayerNorm", True), "granite": ("RMSNorm", False), "olmo": ("LayerNorm", False),
}  # fmt: skip


@pytest.mark.parametrize("kind", READOUTS)
def test_the_last_row_is_the_models_output(kind: str) -> None:
    model = built.understood(zoo.make(kind), kind)
    assert (model.info.norm, model.info.tied_embeddings) == READOUTS[kind]
    trace = analysis.trace(model, (5, 9, 33, 2, 8, 41))
    grid = analysis.decode(model, trace, rows=[-1], k=model.info.vocab)
    wanted = built.plain_logits(model, trace.token_ids).double().numpy()
    scores = np.empty_like(wanted)
    np.put_along_axis(scores, grid.token_ids[0], grid.scores[0].astype(np.float64), -1)
    np.testing.assert_allclose(scores, wanted, atol=1e-5 * np.abs(wanted).max())
    for pos, logits in enumerate(wanted):
        probs = softmax(logits)[grid.token_ids[0, pos]]
        np.testing.assert_allclose(grid.probs[0, pos], probs, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(grid.kl_to_final, 0.0, atol=1e-5)
    assert (model.readout.softcap is not None) == (kind == "gemma2")


@pytest.mark.parametrize(
    ("kind", "norms", "similarity", "plain"),
    [("olmo", ("full", "unit"), "dot", True), ("llama", ("none", "unit"), "cosine", False)],
)
def test_norms_that_the_page_calls_equal_are_equal(
    kind: str, norms: tuple[str, str], similarity: str, plain: bool
) -> None:
    model = built.understood(zoo.make(kind), kind)
    assert model.info.plain_norm == plain
    trace = analysis.trace(model, (5, 9, 33, 2, 8, 41))
    one, other, third = (
        analysis.decode(model, trace, norm=norm, similarity=similarity)
        for norm in (*norms, "none" if plain else "full")
    )
    assert np.array_equal(one.token_ids, other.token_ids)
    np.testing.assert_allclose(one.scores, other.scores, rtol=1e-4, atol=1e-5)
    assert not np.allclose(one.scores, third.scores, rtol=1e-2)


@pytest.mark.parametrize("kind", ["phi", "granite"])
@pytest.mark.parametrize("decoder", ["linear", "quadratic", "midpoint"])
def test_interpolated_decoders_include_bias_and_scale(kind: str, decoder: str) -> None:
    """An untied model with a bias in the unembedding or a scale after it."""
    model = built.understood(zoo.make(kind), kind)
    hf, trace = zoo.make(kind).double(), analysis.trace(model, (5, 9, 33, 2, 8, 41))
    norm = hf.model.final_layernorm if kind == "phi" else hf.model.norm
    grid = analysis.decode(model, trace, decoder=decoder, k=model.info.vocab)
    e_in, head = hf.model.embed_tokens.weight, hf.lm_head
    for row in range(4):
        s = slow_share(decoder, row, 3)
        with torch.no_grad():
            normed = norm(torch.from_numpy(trace.resid[row].astype(np.float64)))
            logits = normed @ ((1 - s) * e_in + s * head.weight).T
            logits = logits + s * head.bias if head.bias is not None else logits
        logits = logits / 2.0 if kind == "granite" else logits  # its ``logits_scaling``
        scores = np.empty((6, model.info.vocab))
        np.put_along_axis(scores, grid.token_ids[row], grid.scores[row].astype(np.float64), -1)
        np.testing.assert_allclose(scores, logits, atol=2e-5 * float(logits.abs().max()))


def test_parts_of_a_grid_equal_the_grid(small: Case) -> None:
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


def test_invalid_options_are_refused(small: Case) -> None:
    for options in (
        {"decoder": "wrong"}, {"norm": "l2"}, {"rows": [99]}, {"positions": [-99]}, {"k": 0},
        {"component": "head_output"}, {"target": 10**6},
    ):  # fmt: skip
        with pytest.raises(analysis.AnalysisError):
            analysis.decode(small.model, small.trace, **options)
