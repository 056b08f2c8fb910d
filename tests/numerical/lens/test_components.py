"""One source position's share of a head, and the difference between rows, against loops."""

from __future__ import annotations

import numpy as np
import pytest

import analysis
from analysis.errors import SpecError
from analysis.lens.cells import states_of
from analysis.lens.specs import LensSpec
from tests.numerical import reference
from tests.numerical.conftest import Case
from tests.support import built, zoo

#: Plain, grouped queries with biases, a post-norm that stores scale - 1, a multiplier, parallel.
KINDS = ("gpt2", "llama", "gemma2", "granite", "gpt_neox")


@pytest.fixture(scope="module", params=KINDS)
def any_case(request: pytest.FixtureRequest) -> Case:
    model = built.understood(zoo.make(request.param), request.param)
    return Case(model, analysis.trace(model, (5, 9, 33, 2, 8, 41)))


def source_output(case: Case, layer: int, head: int, source: int) -> np.ndarray:
    spec = LensSpec(component="source_output", head=head, source=source)
    return states_of(case.model, case.trace, spec, layer)


def test_a_source_by_hand(small: Case) -> None:
    slow = reference.forward(small.model.hf, small.trace.token_ids)
    for layer, head, source in ((0, 0, 0), (1, 3, 4), (2, 2, 8)):
        states = source_output(small, layer, head, source)
        wanted = slow.vectors[layer][head, :, source]
        np.testing.assert_allclose(states, wanted, atol=1e-5)
        assert not states[:source].any()


def test_sources_sum_to_their_head(any_case: Case) -> None:
    layers = [i for i, block in enumerate(any_case.model.stream.blocks) if block.heads]
    for layer in layers:
        wanted = analysis.head_output(any_case.model, any_case.trace, layer)
        for head in range(any_case.model.info.heads):
            total = sum(source_output(any_case, layer, head, source) for source in range(6))
            scale = np.abs(wanted[head]).max()
            np.testing.assert_allclose(total, wanted[head], atol=2e-6 * scale)


def test_cells_before_the_source_are_empty(llama: Case) -> None:
    grid = analysis.decode(
        llama.model, llama.trace, component="source_output", head=1, source=4, target=7, k=3
    )
    assert (grid.token_ids[:, :4] == -1).all()
    assert (grid.target_rank[:, :4] == -1).all()
    for values in (grid.probs, grid.entropy, grid.kl_to_final, grid.target_prob):
        assert np.isnan(values[:, :4]).all()
        assert not np.isnan(values[:, 4:]).any()
    part = analysis.decode(
        llama.model, llama.trace, component="source_output", head=1, source=-5, positions=[-1, 2]
    )
    assert np.array_equal(part.token_ids[:, 0, 0], grid.token_ids[:, 8, 0])
    assert (part.token_ids[:, 1] == -1).all()


def test_increments_add_up_to_the_last_row(any_case: Case) -> None:
    spec = LensSpec(component="block_increment")
    total = any_case.trace.resid[0].astype(np.float64)
    for layer in range(any_case.model.info.layers):
        total += states_of(any_case.model, any_case.trace, spec, layer)
    wanted = any_case.trace.resid[-1]
    np.testing.assert_allclose(total, wanted, atol=1e-5 * np.abs(wanted).max())


def test_an_increment_is_decoded_with_the_matrix_of_its_end_row(llama: Case) -> None:
    """InTraVisTo pairs layer l's difference with the interpolated matrix of layer l - 1."""
    grid = analysis.decode(
        llama.model, llama.trace, component="block_increment", decoder="linear", norm="none"
    )
    e_in = llama.model.hf.get_input_embeddings().weight.double().numpy()
    e_out = llama.model.hf.get_output_embeddings().weight.double().numpy()
    for layer in range(3):
        share = (layer + 1) / 3
        step = (llama.trace.resid[layer + 1, 5] - llama.trace.resid[layer, 5]).astype(np.float64)
        logits = ((1 - share) * e_in + share * e_out) @ step
        assert grid.token_ids[layer, 5, 0] == logits.argmax()
        assert grid.scores[layer, 5, 0] == pytest.approx(logits.max(), rel=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"component": "source_output", "head": 1},
        {"component": "source_output", "source": 1},
        {"component": "head_output", "head": 1, "source": 1},
        {"component": "block_increment", "head": 1},
        {"component": "source_output", "head": 1, "source": 99},
        {"component": "source_output", "head": 99, "source": 0},
    ],
)
def test_invalid_heads_and_sources_are_refused(llama: Case, options: dict[str, object]) -> None:
    with pytest.raises(SpecError):
        analysis.decode(llama.model, llama.trace, **options)
