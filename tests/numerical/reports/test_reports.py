"""Reports on embeddings, norms and similarities, against loops over rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import analysis
from analysis.reports.similarity import LENGTHS
from dash_app.views.model import embedding_report
from tests.numerical.conftest import Case
from tests.numerical.lens.test_grid import matrices, slow_norm
from tests.numerical.views.test_page_texts import words
from tests.support import built, zoo

# -- embeddings ---------------------------------------------------------------------------------


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.sqrt((vector**2).sum())


def own_rank(query: np.ndarray, rows: np.ndarray, token: int) -> int:
    near = [float(query @ row) for row in rows]
    return sum(value > near[token] for value in near)


def test_embeddings_by_hand(llama: Case) -> None:
    found = analysis.embedding_report(llama.model, sample=None)
    e_in, e_out = matrices(llama)
    size = len(e_in)
    cosine = np.array([unit(e_in[token]) @ unit(e_out[token]) for token in range(size)])
    assert (found.tied, found.tokens, found.d_model, found.zero_rows) == (False, size, 32, 0)
    assert found.cosine_mean == pytest.approx(cosine.mean(), abs=1e-6)
    wanted = np.quantile(cosine, found.quantile_levels.astype(np.float64))
    np.testing.assert_allclose(found.cosine_quantiles, wanted, atol=1e-6)
    np.testing.assert_array_equal(
        found.cosine_counts, np.histogram(cosine.astype(np.float32), 80, (-1, 1))[0]
    )
    units = [np.array([unit(row) for row in rows]) for rows in (e_in, e_out)]
    for number, (queries, rows) in enumerate((units, units[::-1])):
        ranks = [own_rank(queries[token], rows, token) for token in range(size)]
        assert found.self_nearest[number] == pytest.approx(np.mean(np.array(ranks) == 0))
        quantiles = np.quantile(ranks, found.quantile_levels.astype(np.float64))
        np.testing.assert_allclose(found.self_rank_quantiles[number], quantiles, rtol=1e-5)
    assert found.exact
    lengths = np.sqrt((e_in**2).sum(-1))
    assert found.input_norm_mean == pytest.approx(lengths.mean(), rel=1e-6)
    assert found.input_norm_quantiles[-1] == pytest.approx(lengths.max(), rel=1e-6)
    assert found.output_norm_mean == pytest.approx(np.sqrt((e_out**2).sum(-1)).mean(), rel=1e-6)
    pairs = np.stack([unit(row) for row in e_in]) @ np.stack([unit(row) for row in e_out]).T
    means = [np.roll(pairs, -offset, 0).trace() / size for offset in range(1, size)]
    assert min(abs(found.unrelated_mean - mean) for mean in means) < 1e-6
    assert found.unrelated_mean != pytest.approx(cosine.mean(), abs=1e-6)
    assert "differ (untied)" in found.sentence


def test_nearly_equal_rows_are_nearest_to_themselves() -> None:
    hf = zoo.make("llama")
    with torch.no_grad():
        hf.lm_head.weight.copy_(3.0 * hf.model.embed_tokens.weight)
        hf.lm_head.weight[7] = -hf.lm_head.weight[7]
        hf.lm_head.weight[9] = 0.0
    found = analysis.embedding_report(built.understood(hf, "llama"), sample=None)
    assert found.zero_rows == 1
    assert found.sampled == 95
    assert found.self_nearest.tolist() == pytest.approx([94 / 95] * 2)
    assert found.self_rank_quantiles[0, -1] == 95  # token 7's row is the farthest of all 96
    assert found.cosine_quantiles[[0, -1]].tolist() == pytest.approx([-1.0, 1.0])
    assert "99 % of all 95 tokens" in found.sentence


#: Angles of two tokens' input rows and output rows in one plane. Both inputs are nearer to the
#: other token's output. One output is nearest to its own input (40 degrees). The other output is
#: at 60 degrees to its own input and at 30 to the other's.
ASTRAY, AT_HOME = ((0, 90), (40, 30)), ((0, 90), (5, 80))


def in_planes(planes: list[tuple[tuple[int, int], tuple[int, int]]]) -> list[torch.Tensor]:
    """Input and output rows of two tokens for each plane; the planes are orthogonal."""
    made = [torch.zeros(96, 32) for _ in range(2)]
    for plane, angles in enumerate(planes):
        for rows, pair in zip(made, angles, strict=True):
            for number, degrees in enumerate(pair):
                token, length = 2 * plane + number, 1.0 + plane
                rows[token, 2 * plane] = length * math.cos(math.radians(degrees))
                rows[token, 2 * plane + 1] = length * math.sin(math.radians(degrees))
    return made


def own_is_nearest(planes: list[Any], number: int) -> list[bool]:
    """Whether each token's row is nearest in its plane; all other rows are at 90 degrees."""
    found = []
    for plane in planes:
        mine, theirs = plane[number], plane[1 - number]
        for own, other in ((0, 1), (1, 0)):
            found.append(abs(mine[own] - theirs[own]) < abs(mine[own] - theirs[other]))
    return found


def test_both_directions_between_the_matrices_are_reported() -> None:
    planes = [ASTRAY] * 12 + [AT_HOME] * 4
    hf = zoo.make("llama")
    with torch.no_grad():
        for weight, rows in zip(
            (hf.model.embed_tokens.weight, hf.lm_head.weight), in_planes(planes), strict=True
        ):
            weight.copy_(rows)
    found = analysis.embedding_report(built.understood(hf, "llama"), sample=None)
    there, back = (np.mean(own_is_nearest(planes, number)) for number in (0, 1))
    assert (there, back) == (8 / 32, 20 / 32)
    assert found.sampled == 32
    assert found.self_nearest.tolist() == pytest.approx([there, back])
    assert "For 25 % of" in found.sentence
    shown = words(embedding_report(found, "light"))
    for name, share in (
        ("Own output row is nearest to the input row", "25 %"),
        ("Own input row is nearest to the output row", "62 %"),
    ):
        assert shown[shown.index(name) + 1].startswith(share)


def test_a_tied_model_is_reported_as_tied(gpt2: Case) -> None:
    found = analysis.embedding_report(gpt2.model)
    assert found.tied
    assert found.self_nearest.tolist() == [1.0, 1.0]
    assert found.cosine_mean == 1.0
    assert "the same matrix (tied)" in found.sentence
    assert found.cosine_counts.sum() == found.tokens


def test_a_sample_is_stated_and_seeded(llama: Case) -> None:
    found = analysis.embedding_report(llama.model, sample=50, seed=3)
    again = analysis.embedding_report(llama.model, sample=50, seed=3)
    assert (found.sampled, found.exact) == (50, False)
    assert np.array_equal(found.self_rank_quantiles, again.self_rank_quantiles)
    assert "50 sampled tokens" in found.sentence
    other = analysis.embedding_report(llama.model, sample=50, seed=4)
    assert not np.array_equal(found.self_rank_quantiles, other.self_rank_quantiles)
    assert np.array_equal(found.cosine_counts, other.cosine_counts)


def test_the_input_scale_is_reported_separately() -> None:
    model = built.understood(zoo.make("gemma2"), "gemma2")
    found = analysis.embedding_report(model)
    assert found.embedding_scale == pytest.approx(32**0.5)
    lengths = model.hf.get_input_embeddings().weight.double().norm(dim=-1)
    assert found.input_norm_mean == pytest.approx(float(lengths.mean()), rel=1e-5)


# -- norms --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "norm", "stores", "in_a_block"),
    [
        ("llama", "RMSNorm", "scale", 2),
        ("gpt2", "LayerNorm", "scale", 2),
        ("gemma2", "RMSNorm", "scale - 1", 4),
        ("olmo", "LayerNorm", "nothing", 2),
        ("qwen3", "RMSNorm", "scale", 4),
    ],
)
def test_every_norm_is_found_and_named(kind: str, norm: str, stores: str, in_a_block: int) -> None:
    model = built.understood(zoo.make(kind), kind)
    found = analysis.norm_report(model)
    assert found.final is not None
    for one in (found.final, *found.others):
        assert (one.kind, one.stores) == (norm, stores)
        module = model.hf.get_submodule(one.name)
        eps = float(getattr(module, "eps", getattr(module, "variance_epsilon", 1e-5)))
        assert one.eps == pytest.approx(eps, rel=1e-2)
        if stores == "nothing":
            continue
        scale = module.weight.double() + (stores == "scale - 1")
        wanted = np.quantile(scale.numpy(), np.linspace(0, 1, 5))
        np.testing.assert_allclose(one.scale, wanted, rtol=1e-4, atol=1e-5)
        if norm == "LayerNorm":
            bias = np.quantile(module.bias.double().numpy(), np.linspace(0, 1, 5))
            np.testing.assert_allclose(one.bias, bias, atol=1e-6)
    layers = [one.layer for one in found.others]
    assert layers == sorted(in_a_block * list(range(3)))
    assert found.final.layer == -1


def test_the_final_norms_own_numbers(small: Case) -> None:
    found = analysis.norm_report(small.model)
    hf = small.model.hf
    norm = hf.transformer.ln_f if small.model.info.norm == "LayerNorm" else hf.model.norm
    np.testing.assert_allclose(found.final_scale, norm.weight.numpy(), rtol=1e-4, atol=1e-5)
    bias = getattr(norm, "bias", None)
    wanted = np.zeros(32) if bias is None else bias.numpy()
    np.testing.assert_allclose(found.final_bias, wanted, atol=1e-6)


# -- similarities -------------------------------------------------------------------------------


def ranks_by(scores: np.ndarray) -> np.ndarray:
    """Rank of each token, 0 is best."""
    return np.argsort(np.argsort(-scores, kind="stable"), kind="stable")


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's correlation: Pearson's correlation of ranks."""
    return float(np.corrcoef(ranks_by(one), ranks_by(other))[0, 1])


def overlap(one: np.ndarray, other: np.ndarray, k: int) -> float:
    return len(set(np.argsort(-one)[:k]) & set(np.argsort(-other)[:k])) / k


@pytest.mark.parametrize("norm", ["none", "full"])
def test_similarities_by_hand(small: Case, norm: str) -> None:
    found = analysis.similarity_report(small.model, small.trace, norm=norm, k=5, cells=20, seed=2)
    _, e_out = matrices(small)
    assert found.cells_in_all == 36
    assert len({*zip(found.rows.tolist(), found.positions.tolist(), strict=True)}) == 20
    for number, (row, pos) in enumerate(zip(found.rows, found.positions, strict=True)):
        state = slow_norm(small, small.trace.resid[row, pos], norm)
        dot = np.array([e @ state for e in e_out])
        cosine = np.array([e @ state / np.linalg.norm(e) / np.linalg.norm(state) for e in e_out])
        near = -np.array([np.linalg.norm(e - state) for e in e_out])
        assert found.state_norm[number] == pytest.approx(np.linalg.norm(state), rel=1e-5)
        assert found.rank_euclidean[number] == pytest.approx(correlation(cosine, near), abs=1e-4)
        assert found.rank_dot[number] == pytest.approx(correlation(cosine, dot), abs=1e-4)
        assert found.overlap_euclidean[number] == pytest.approx(overlap(cosine, near, 5))
        assert found.overlap_dot[number] == pytest.approx(overlap(cosine, dot, 5))


def test_bins_hold_every_cell_once(llama: Case) -> None:
    found = analysis.similarity_report(llama.model, llama.trace, norm="none", cells=36)
    assert found.bin_counts.sum() == 36
    for number, count in enumerate(found.bin_counts):
        low, high = found.bin_edges[number], found.bin_edges[number + 1]
        last = number == len(found.bin_counts) - 1
        mine = (found.state_norm >= low) & (
            (found.state_norm <= high) if last else (found.state_norm < high)
        )
        assert mine.sum() == count
        for name in ("rank_dot", "rank_euclidean", "overlap_dot", "overlap_euclidean"):
            mean = getattr(found, f"bin_{name}")[number]
            own = getattr(found, name)[mine]
            assert mean == pytest.approx(own.mean(), abs=1e-6) if count else np.isnan(mean)


def test_one_direction_at_other_lengths_by_hand(small: Case) -> None:
    found = analysis.similarity_report(small.model, small.trace, norm="none", k=5, cells=7, seed=2)
    _, rows = matrices(small)
    lengths = np.sqrt((rows**2).sum(-1))
    np.testing.assert_allclose(
        found.row_norm, np.quantile(lengths, np.linspace(0, 1, 5)), rtol=1e-5
    )
    assert found.swept_cells == 7  # all of them
    states = [unit(small.trace.resid[row, pos].astype(np.float64))
              for row, pos in zip(found.rows, found.positions, strict=True)]  # fmt: skip
    for number in (0, 6, 16):
        length = float(found.swept_norm[number])
        shared, ranked = [], []
        for state in states:
            cosine = rows @ state / lengths
            near = -np.sqrt(((rows - length * state) ** 2).sum(-1))
            shared.append(overlap(cosine, near, 5))
            ranked.append(correlation(cosine, near))
        assert found.swept_overlap[number] == pytest.approx(np.mean(shared), abs=1e-6)
        assert found.swept_rank[number] == pytest.approx(np.mean(ranked), abs=1e-4)


def with_rows(scale: torch.Tensor) -> tuple[analysis.Model, analysis.Trace]:
    """A small model whose unembedding's rows have the given lengths."""
    hf = zoo.make("llama")
    with torch.no_grad():
        weight = hf.lm_head.weight
        weight.copy_(torch.nn.functional.normalize(weight, dim=-1) * scale[:, None])
    model = built.understood(hf, "llama")
    return model, analysis.trace(model, (5, 9, 33, 2, 8, 41))


def test_rows_of_equal_length_rank_alike_for_any_state_length() -> None:
    found = analysis.similarity_report(*with_rows(torch.full((96,), 0.7)), norm="none")
    for values in (found.rank_euclidean, found.overlap_euclidean, found.rank_dot):
        np.testing.assert_allclose(values, 1.0, atol=1e-3)
    np.testing.assert_allclose(found.swept_rank, 1.0, atol=1e-3)
    assert found.swept_norm.tolist() == list(LENGTHS)


def test_inside_the_unit_ball_the_shortest_row_is_the_nearest() -> None:
    """Inside the unit ball cosine and distance differ unless rows have one length."""
    scale = torch.linspace(0.5, 4.0, 96)
    model, trace = with_rows(scale)
    found = analysis.similarity_report(model, trace, norm="none", k=10)
    inside, outside = found.swept_norm < 1 / 32, found.swept_norm > 512
    assert np.abs(found.swept_rank[inside]).max() < 0.2
    assert found.swept_rank[outside].min() > 0.7
    far = analysis.decode(model, trace, norm="none", similarity="dot", k=1)
    state = trace.resid[2, 3].astype(np.float64)
    rows = model.hf.lm_head.weight.double().numpy()
    near = [np.linalg.norm(rows - state / np.linalg.norm(state) * length, axis=1).argmin()
            for length in (1e-3, 1e5)]  # fmt: skip
    assert near == [0, far.token_ids[2, 3, 0]]
    assert "scaled to length 1" in found.sentence


def test_invalid_options_are_refused(llama: Case) -> None:
    for options in ({"norm": "l2"}, {"decoder": "linear"}, {"k": 0}, {"cells": 0}):
        with pytest.raises(analysis.AnalysisError):
            analysis.similarity_report(llama.model, llama.trace, **options)
    with pytest.raises(analysis.AnalysisError, match="one token"):
        analysis.embedding_report(llama.model, sample=0)
