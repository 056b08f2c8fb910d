"""Disagreement of decoders, against single distributions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

import analysis
from analysis.learned.translators import LogitLens, new_lens
from analysis.lens import cells as lens_cells
from analysis.lens.disagreement import jensen_shannon
from tests.numerical.conftest import Case
from tests.numerical.lens.test_grid import matrices, slow_norm, slow_share, softmax

NAMES = ("output", "input", "quadratic")


@pytest.mark.parametrize("norm", ["full", "none"])
def test_cells_by_hand(llama: Case, norm: str) -> None:
    found = analysis.disagreement(llama.model, llama.trace, NAMES, norm=norm)
    e_in, e_out = matrices(llama)
    for row, pos in itertools.product(range(4), range(9)):
        read = []
        for name in NAMES:
            s = slow_share(name, row, 3)
            state = slow_norm(llama, llama.trace.resid[row, pos], norm)
            read.append(softmax(((1 - s) * e_in + s * e_out) @ state))
        mean = sum(read) / 3
        divergence = sum((p * np.log(p / mean)).sum() for p in read) / 3
        assert found.divergence[row, pos] == pytest.approx(divergence, abs=2e-6, rel=1e-4)
        top = [int(p.argmax()) for p in read]
        assert found.top1[:, row, pos].tolist() == top
        same = [one == other for one, other in itertools.combinations(top, 2)]
        assert found.agreement[row, pos] == pytest.approx(sum(same) / 3)
    assert len(np.unique(found.agreement)) > 1
    assert found.coincide == ()
    assert not found.all_coincide


def test_at_its_ends_an_interpolation_equals_the_end_decoder(llama: Case) -> None:
    found = analysis.disagreement(llama.model, llama.trace, ("linear", "output"), rows=[-1])
    assert (found.agreement == 1).all()
    np.testing.assert_allclose(found.divergence, 0.0, atol=1e-7)
    first = analysis.disagreement(llama.model, llama.trace, ("input", "linear"), rows=[0])
    np.testing.assert_allclose(first.divergence, 0.0, atol=1e-7)
    assert found.coincide == first.coincide == ()


def test_a_tied_model_reports_that_decoders_coincide(gpt2: Case) -> None:
    found = analysis.disagreement(gpt2.model, gpt2.trace, NAMES)
    assert found.coincide == (NAMES,)
    assert found.all_coincide
    assert (found.agreement == 1).all()
    assert not found.divergence.any()
    grid = analysis.decode(gpt2.model, gpt2.trace, k=1)
    for top in found.top1:
        assert np.array_equal(top, grid.token_ids[..., 0])


def test_a_part_of_the_grid_equals_the_whole(llama: Case) -> None:
    whole = analysis.disagreement(llama.model, llama.trace)
    part = analysis.disagreement(llama.model, llama.trace, rows=[2, 0], positions=[-1, 3])
    cells = np.ix_([2, 0], [8, 3])
    np.testing.assert_allclose(part.divergence, whole.divergence[cells], rtol=1e-4, atol=1e-7)
    assert np.array_equal(part.agreement, whole.agreement[cells])


def test_disjoint_certain_readings_have_the_largest_divergence() -> None:
    sure = torch.full((1, 700), -1e4)
    read = []
    for place in range(4):
        logits = sure.clone()
        logits[0, place] = 1e4
        read.append(logits)
    equal = torch.full((4,), 0.25)
    assert float(jensen_shannon(read, equal)) == pytest.approx(math.log(4), rel=1e-6)
    assert float(jensen_shannon([read[0], read[0]], equal[:2] * 2)) == 0.0


def test_coinciding_decoders_count_once_for_each_name() -> None:
    """Evaluating three coinciding decoders once, with their weight, changes nothing."""
    generator = torch.Generator().manual_seed(1)
    one, other = torch.randn(2, 5, 400, generator=generator) * 3
    whole = jensen_shannon([one, one, one, other], torch.full((4,), 0.25))
    short = jensen_shannon([one, other], torch.tensor([0.75, 0.25]))
    np.testing.assert_allclose(whole, short, rtol=1e-5)


@pytest.mark.parametrize(
    "decoders", [("output",), ("output", "output"), ("output", "max_probability"), ("a", "b")]
)
def test_invalid_choices_are_refused(llama: Case, decoders: tuple[str, ...]) -> None:
    with pytest.raises(analysis.AnalysisError):
        analysis.disagreement(llama.model, llama.trace, decoders)


def test_the_learned_lens_can_be_compared(gpt2: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a tied model only the learned lens differs; its translator comes before the norm."""
    model, trace = gpt2.model, gpt2.trace
    width = model.info.d_model
    lens = new_lens(torch.ones(3, width), torch.ones(3), rank=0, seed=0)
    with torch.no_grad():
        for row, translator in enumerate(lens.translators):
            translator.matrix.copy_(0.7 * torch.eye(width).roll(row + 1, 0))
            translator.bias.fill_(0.3)
    monkeypatch.setattr(
        lens_cells, "lens_of", lambda _, name: lens if name == "learned" else LogitLens()
    )
    found = analysis.disagreement(model, trace, ("output", "learned", "input"))
    coloured = analysis.colours(model, trace, decoder="learned", quantities=["cross_entropy"])
    assert found.coincide == (("output", "input"),)
    assert not found.all_coincide
    _, e_out = matrices(gpt2)
    for row, pos in itertools.product(range(4), range(0, 9, 4)):
        state = trace.resid[row, pos].astype(np.float64)
        moved = state if row == 3 else state + 0.7 * np.roll(state, row + 1) + 0.3
        read = [softmax(e_out @ slow_norm(gpt2, one, "full")) for one in (state, moved, state)]
        mean = sum(read) / 3
        divergence = sum((p * np.log(p / mean)).sum() for p in read) / 3
        assert found.divergence[row, pos] == pytest.approx(divergence, abs=2e-6, rel=1e-3)
        assert found.top1[:, row, pos].tolist() == [int(p.argmax()) for p in read]
        if pos < 8:
            loss = -np.log(read[1][trace.token_ids[pos + 1]])
            assert coloured.cross_entropy[row, pos] == pytest.approx(loss, rel=1e-3)


def test_a_model_without_a_learned_lens_is_reported(llama: Case) -> None:
    with pytest.raises(analysis.AnalysisError, match="no learned lens"):
        analysis.disagreement(llama.model, llama.trace, ("output", "learned"))
