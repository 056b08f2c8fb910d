"""Colours of a grid, against loops over cells and blocks with independent formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import analysis
from analysis.lens import cells as lens_cells
from analysis.lens import shares as shares_module
from analysis.lens.results import Colours
from tests.numerical.conftest import Case
from tests.numerical.lens.test_grid import matrices, slow_norm, slow_share, softmax
from tests.support import built, zoo


@pytest.fixture(scope="module")
def parallel() -> Case:
    model = built.understood(zoo.make("gpt_neox"), "gpt_neox")
    return Case(model, analysis.trace(model, (5, 9, 33, 2, 8, 41)))


@pytest.fixture(scope="module")
def capped() -> Case:
    model = built.understood(zoo.make("gemma2"), "gemma2")
    return Case(model, analysis.trace(model, (5, 9, 33, 2, 8, 41)))


def slow_logits(case: Case, state: np.ndarray, row: int, decoder: str, norm: str) -> np.ndarray:
    e_in, e_out = matrices(case)
    s = slow_share(decoder, row, case.model.info.layers)
    return ((1 - s) * e_in + s * e_out) @ slow_norm(case, state, norm)


@pytest.mark.parametrize(("decoder", "norm"), [("output", "full"), ("linear", "unit"),
                                               ("input", "none")])  # fmt: skip
def test_cells_by_hand(small: Case, decoder: str, norm: str) -> None:
    trace = small.trace
    found = analysis.colours(small.model, trace, decoder=decoder, norm=norm)
    for row in range(4):
        for pos in range(9):
            state = trace.resid[row, pos].astype(np.float64)
            logits = slow_logits(small, state, row, decoder, norm)
            assert found.state_norm[row, pos] == pytest.approx(np.linalg.norm(state), rel=1e-5)
            if pos < 8:
                loss = -np.log(softmax(logits)[trace.token_ids[pos + 1]])
                assert found.cross_entropy[row, pos] == pytest.approx(loss, rel=1e-4, abs=1e-5)
            if row == 0:
                continue
            before = trace.resid[row - 1, pos].astype(np.float64)
            cosine = state @ before / np.linalg.norm(state) / np.linalg.norm(before)
            assert found.cosine_before[row, pos] == pytest.approx(cosine, abs=1e-5)
            earlier = slow_logits(small, before, row - 1, decoder, norm)
            rank = (earlier > earlier[logits.argmax()]).sum()
            assert found.rank_change[row, pos] == rank
    assert np.isnan(found.cross_entropy[:, 8]).all()
    assert np.isnan(found.cosine_before[0]).all()
    assert np.isnan(found.rank_change[0]).all()


def test_the_loss_at_the_last_row_is_the_models(case: Case) -> None:
    found = analysis.colours(case.model, case.trace, quantities=["cross_entropy"], rows=[-1])
    for pos, token in enumerate(case.trace.token_ids[1:]):
        logits = case.trace.logits[pos].astype(np.float64)
        loss = np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[token]
        assert found.cross_entropy[0, pos] == pytest.approx(loss, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("options", [
    {"component": "mlp_output"}, {"component": "block_increment", "decoder": "quadratic"},
    {"decoder": "max_probability"}, {"similarity": "cosine"}, {"similarity": "euclidean"},
    {"candidates": "matching_pursuit"}, {"candidates": "subtraction"},
    {"candidates": "matching_pursuit", "decoder": "max_probability"},
    {"candidates": "subtraction", "decoder": "max_probability"},
    {"candidates": "matching_pursuit", "similarity": "cosine"},
])  # fmt: skip
def test_ranks_are_those_of_the_grid(llama: Case, options: dict[str, Any]) -> None:
    """The grid's ranks of each cell's first token in this row and the row before."""
    found = analysis.colours(llama.model, llama.trace, **options)
    grid = analysis.decode(llama.model, llama.trace, **options)
    for row in range(1, len(grid.rows)):
        for pos in range(9):
            token = int(grid.token_ids[row, pos, 0])
            two = analysis.decode(llama.model, llama.trace, **options, rows=[row - 1, row],
                                  positions=[pos], target=token)  # fmt: skip
            change = two.target_rank[0, 0] - two.target_rank[1, 0]
            assert found.rank_change[row, pos] == change
    assert np.isnan(found.cross_entropy).all() == (options.get("similarity") is not None)


def test_a_part_of_a_grid_has_the_same_colours(llama: Case) -> None:
    whole = analysis.colours(llama.model, llama.trace)
    part = analysis.colours(llama.model, llama.trace, rows=[3, 1], positions=[-1, 2])
    for name in ("cross_entropy", "rank_change", "state_norm", "cosine_before"):
        cells = getattr(whole, name)[np.ix_([3, 1], [8, 2])]
        np.testing.assert_allclose(getattr(part, name), cells, rtol=1e-5)
    np.testing.assert_allclose(part.shares, whole.shares[..., [8, 2]], rtol=1e-4, atol=1e-6)


def test_a_head_has_no_state_before_its_source(llama: Case) -> None:
    found = analysis.colours(llama.model, llama.trace, component="source_output", head=1, source=4)
    for name in ("cross_entropy", "rank_change", "state_norm", "cosine_before"):
        values = getattr(found, name)
        assert np.isnan(values[:, :4]).all()
        assert not np.isnan(values[1:, 4:8]).any()


def test_quantities_that_were_not_requested_are_nan(llama: Case) -> None:
    found = analysis.colours(llama.model, llama.trace, quantities=["norm", "state_norm"])
    assert found.methods == ("norm",)
    assert found.quantities == ("state_norm", "norm")
    assert np.isnan(found.cross_entropy).all()
    assert not np.isnan(found.state_norm).any()
    with pytest.raises(analysis.AnalysisError, match="quantity"):
        analysis.colours(llama.model, llama.trace, quantities=["beauty"])


# -- shares of the parts of a block ------------------------------------------------------------


def parts_of(case: Case, layer: int, pos: int) -> list[np.ndarray]:
    trace = case.trace
    return [
        array[layer, pos].astype(np.float64)
        for array in (trace.resid, trace.attn_out, trace.mlp_out)
    ]


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    return float((p * (np.log(p) - np.log(q))).sum())


def slow_norm_shares(parts: list[np.ndarray]) -> np.ndarray:
    sizes = np.array([np.sqrt((part**2).sum()) for part in parts])
    return sizes / sizes.sum()


def slow_proximity(parts: list[np.ndarray]) -> np.ndarray:
    whole = parts[0] + parts[1] + parts[2]
    scores = [max(np.abs(whole).sum() - np.abs(part - whole).sum(), 0.0) for part in parts]
    return np.array(scores) / sum(scores) if sum(scores) else slow_norm_shares(parts)


def slow_kl(case: Case, parts: list[np.ndarray]) -> np.ndarray:
    _, e_out = matrices(case)

    def read(state: np.ndarray) -> np.ndarray:
        return softmax(e_out @ slow_norm(case, state, "full"))

    whole = read(parts[0] + parts[1] + parts[2])
    closeness = [1 / (divergence(whole, read(part)) + 1e-10) for part in parts]
    return np.array(closeness) / sum(closeness)


def slow_hidden(case: Case, parts: list[np.ndarray]) -> np.ndarray:
    """InTraVisTo's two ratios (utils.py), the residual's share under its own name."""

    def read(state: np.ndarray) -> np.ndarray:
        return softmax(slow_norm(case, state, "full"))

    def residual_share(x: np.ndarray, added: np.ndarray) -> float:
        whole = read(x + added)
        k_res, k_x = divergence(whole, read(x)), divergence(whole, read(added))
        return k_x / (k_res + k_x + 1e-10)

    x, attention, mlp = parts
    in_mid, in_block = residual_share(x, attention), residual_share(x + attention, mlp)
    return np.array([in_block * in_mid, in_block * (1 - in_mid), 1 - in_block])


def test_shares_by_hand(small: Case) -> None:
    found = analysis.colours(small.model, small.trace)
    slow = {
        "norm": slow_norm_shares,
        "proximity": slow_proximity,
        "kl": lambda parts: slow_kl(small, parts),
        "hidden_kl": lambda parts: slow_hidden(small, parts),
    }
    assert found.methods == tuple(slow)
    for layer in range(3):
        for pos in range(9):
            parts = parts_of(small, layer, pos)
            for method, shares in slow.items():
                got = [
                    found.share(part, method)[layer, pos]
                    for part in ("residual", "attention", "mlp")
                ]
                np.testing.assert_allclose(got, shares(parts), rtol=2e-3, atol=1e-5)


def test_three_shares_sum_to_1_in_every_kind_of_block(
    small: Case, parallel: Case, capped: Case
) -> None:
    for case in (small, parallel, capped):
        found = analysis.colours(case.model, case.trace)
        assert found.parallel_blocks == (case is parallel)
        np.testing.assert_allclose(found.shares.sum(1), 1.0, atol=1e-5)
        assert found.shares.min() >= 0.0


def test_the_chunk_size_changes_nothing(llama: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = analysis.colours(llama.model, llama.trace, decoder="linear")
    apart = analysis.disagreement(llama.model, llama.trace)
    monkeypatch.setattr(shares_module, "_MAX_LOG_PROBS", 600)
    monkeypatch.setattr(lens_cells, "_MAX_SCORES", 600)
    part = analysis.colours(llama.model, llama.trace, decoder="linear")
    np.testing.assert_allclose(part.shares, whole.shares, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(part.cross_entropy, whole.cross_entropy, rtol=1e-4)
    assert np.array_equal(part.rank_change, whole.rank_change, equal_nan=True)
    again = analysis.disagreement(llama.model, llama.trace)
    np.testing.assert_allclose(again.divergence, apart.divergence, rtol=1e-3, atol=1e-6)


def test_parallel_parts_are_weighed_at_once(parallel: Case) -> None:
    """Hidden-coordinate KL in a parallel block: 1 / KL over all three parts."""
    found = analysis.colours(parallel.model, parallel.trace, quantities=["hidden_kl"])
    norm = parallel.model.hf.gpt_neox.final_layer_norm

    def read(state: np.ndarray) -> np.ndarray:
        unit = (state - state.mean()) / np.sqrt(state.var() + norm.eps)
        return softmax(unit * norm.weight.double().numpy() + norm.bias.double().numpy())

    parts = parts_of(parallel, 1, 4)
    whole = read(sum(parts))
    closeness = np.array([1 / (divergence(whole, read(part)) + 1e-10) for part in parts])
    np.testing.assert_allclose(found.shares[0, :, 1, 4], closeness / closeness.sum(), rtol=2e-3)


def test_the_share_of_the_residual_is_not_the_components(small: Case) -> None:
    """InTraVisTo's contribution heatmap plots |x| / (|x| + |a|) under attention's name."""
    found: Colours = analysis.colours(small.model, small.trace, quantities=["norm"])
    x, attention, mlp = parts_of(small, 0, 3)
    sizes = [np.linalg.norm(part) for part in (x, attention, mlp)]
    assert found.share("attention", "norm")[0, 3] == pytest.approx(sizes[1] / sum(sizes), rel=1e-4)
    assert found.share("residual", "norm")[0, 3] == pytest.approx(sizes[0] / sum(sizes), rel=1e-4)


def test_norm_shares_replace_proximities_that_are_all_0() -> None:
    import torch

    from analysis.lens.shares import norm_shares, proximity_shares

    residual = torch.tensor([[4.0, 0.0], [1.0, 2.0]])
    attention = torch.tensor([[-4.0, 3.0], [0.5, 0.0]])
    mlp = torch.tensor([[0.0, -3.0], [0.0, 1.0]])
    parts = (residual, attention, mlp)
    shares, all_zero = proximity_shares(parts)
    assert all_zero.tolist() == [True, False]
    assert torch.equal(shares[:, 0], norm_shares(parts)[:, 0])
    np.testing.assert_allclose(shares.sum(0), 1.0, atol=1e-6)
