"""Patching sweeps against hooks made by hand, one whole pass for each cell."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import analysis
from analysis.experiments import cells, sweep
from analysis.experiments.specs import METRICS
from analysis.model.handle import Model
from tests.numerical.experiments.by_hand import (
    ANSWER,
    AXES,
    CLEAN,
    CORRUPTED,
    DIRECTIONS,
    FOIL,
    LAYER,
    Case,
    by_hand,
    measures,
    swept,
)


@torch.no_grad()
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("axes", AXES)
def test_every_cell_equals_a_pass_with_a_hook_made_by_hand(
    case: Case, axes: str, direction: str
) -> None:
    found = swept(case, axes=axes, direction=direction)
    ends = (CORRUPTED, CLEAN) if direction == "denoise" else (CLEAN, CORRUPTED)
    start, end = (
        float(logits[ANSWER] - logits[FOIL])
        for logits in (case.model.hf(torch.tensor([ids])).logits[0, -1].double() for ids in ends)
    )
    assert found.raw.size == np.prod(found.raw.shape) > 8
    assert found.measured.all()
    for index in np.ndindex(*found.raw.shape):
        logits = by_hand(case, axes, index, *ends)
        value = float(logits[ANSWER] - logits[FOIL])
        assert found.raw[index] == pytest.approx(value, abs=1e-5), index
        effect = (value - start) / (end - start)
        assert found.effect[index] == pytest.approx(effect, abs=1e-5 / abs(end - start)), index


@torch.no_grad()
@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_equals_its_definition(case: Case, metric: str) -> None:
    found = swept(case, axes="part", metric=metric)
    clean = case.model.hf(torch.tensor([CLEAN])).logits[0, -1]
    corrupted = case.model.hf(torch.tensor([CORRUPTED])).logits[0, -1].double()
    assert found.clean_value == pytest.approx(measures(clean.double(), clean)[metric], abs=1e-6)
    assert found.corrupted_value == pytest.approx(measures(corrupted, clean)[metric], abs=1e-5)
    for index in ((0, 0, 2), (1, 1, 5), (2, 0, 7)):
        logits = by_hand(case, "part", index, CORRUPTED, CLEAN)
        assert found.raw[index] == pytest.approx(measures(logits, clean)[metric], abs=1e-5)


def whole(model: Model, direction: str, where: tuple[int, ...]) -> tuple[float, list[float]]:
    """The normalised effect of patching a row at positions, computed and not known beforehand."""
    ids = (CORRUPTED, CLEAN) if direction == "denoise" else (CLEAN, CORRUPTED)
    rows = range(model.info.layers + 1)
    several = [cells.Cell((row,), ("row", row), None, where) for row in rows]
    runs = [cells.run(model, own, [cell.component for cell in several]) for own in ids]
    patcher = cells.Patcher(model, *runs, tuple(range(len(CLEAN))))
    ends = [float((one.logits[ANSWER] - one.logits[FOIL]).double()) for one in runs]
    known = [patcher.known(cell) for cell in several]
    patcher.known = lambda _cell: None  # type: ignore[method-assign]
    found = [
        (float((logits[ANSWER] - logits[FOIL]).double()) - ends[0]) / (ends[1] - ends[0])
        for _, logits in sorted(patcher.logits(several), key=lambda pair: pair[0].at)
    ]
    exact = {float(torch.equal(logits, runs[1].logits)) for logits in known if logits is not None}
    assert len(exact) == 1
    return exact.pop(), found


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_patching_everything_gives_exactly_1(case: Case, direction: str) -> None:
    exact, computed = whole(case.model, direction, tuple(range(len(CLEAN))))
    assert exact == 1.0
    assert computed == pytest.approx([1.0] * len(computed), abs=1e-4)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_patching_what_is_equal_gives_exactly_0(case: Case, direction: str) -> None:
    exact, computed = whole(case.model, direction, (0, 1))
    assert exact == 0.0
    assert computed == pytest.approx([0.0] * len(computed), abs=1e-4)


def test_a_sweep_has_the_exact_ends(case: Case) -> None:
    """One token differs, so its embedding is everything; the last state is everything, too."""
    other = (*CLEAN[:3], 77, *CLEAN[4:])
    for direction in DIRECTIONS:
        found = analysis.sweep(
            case.model, CLEAN, other, answer=ANSWER, foil=FOIL, direction=direction
        )
        assert found.effect[0].tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
        assert found.effect[-1, -1] == 1
        assert (found.effect[:, :3] == 0).all()
        assert (found.effect[-1, :-1] == 0).all()


def test_a_pass_from_the_patched_layer_equals_a_whole_pass(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    beginning = cells.beginning_at

    def noting(model: Any, row: int, *more: Any) -> Any:
        begun.append(row)
        return beginning(model, row, *more)

    monkeypatch.setattr(cells, "beginning_at", noting)
    found = swept(case)
    assert set(begun) == {0, 1, 2, 3}
    monkeypatch.setattr(sweep, "Patcher", partial(cells.Patcher, restart=False))
    begun.clear()
    again = swept(case)
    assert set(begun) == {0}
    assert np.allclose(found.raw, again.raw, atol=1e-5)


def test_a_model_whose_later_blocks_read_earlier_ones_is_run_whole(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run without a patch is the check: here it fails at every row."""
    wanted = swept(case)
    monkeypatch.setattr(cells.Patcher, "_same", lambda _self, _logits: False)
    assert np.allclose(swept(case).raw, wanted.raw, atol=1e-5)


def test_no_hook_and_no_skipped_block_remains(case: Case) -> None:
    before = case.model.hf(torch.tensor([CLEAN])).logits
    for axes in AXES:
        swept(case, axes=axes)
        swept(case, axes=axes, exact=False)
    assert torch.equal(case.model.hf(torch.tensor([CLEAN])).logits, before)
    assert all("forward" not in vars(part.block) for part in case.parts)


@contextmanager
def doubled(model: Model) -> Iterator[None]:
    """Run a model in double precision, so that small differences can be measured."""
    model.hf.double()
    try:
        yield
    finally:
        model.hf.float()


@pytest.mark.parametrize("metric", ["logit_difference", "probability"])
@pytest.mark.parametrize("axes", AXES)
def test_an_estimate_has_the_right_first_order(case: Case, axes: str, metric: str) -> None:
    """Halve the difference between the runs: the error relative to the effect halves, too."""
    errors = []
    for part in (0.02, 0.01):
        with doubled(case.model):
            patcher, several, measure = nearby(case.model, axes, part, metric)
            exact = {cell.at: measure.value(found) for cell, found in patcher.logits(several)}
            guess = {cell.at: value for cell, value in sweep._estimated(patcher, several, measure)}
        start = measure.value(patcher.patched.logits)
        effects = np.array([exact[cell.at] - start for cell in several])
        off = np.array([guess[cell.at] - exact[cell.at] for cell in several])
        errors.append(float(np.abs(off).max() / np.abs(effects).max()))
    assert errors[1] < 0.05
    assert errors[1] < 0.7 * errors[0]


def nearby(model: Model, axes: str, part: float, metric: str) -> tuple[Any, ...]:
    """A patcher whose other run is ``part`` of the way to the other prompt's run."""
    wanted = range(sweep.sizes(model, axes, len(CLEAN), LAYER)[0])
    several = cells.cells_of(model, axes, wanted, tuple(range(len(CLEAN))), LAYER)
    components = list(dict.fromkeys(cell.component for cell in several))
    own, far = (cells.run(model, ids, components) for ids in (CORRUPTED, CLEAN))
    recorded = cells.run(model, CORRUPTED, components, record=True)
    near = {
        place: [a + part * (b - a) for a, b in zip(states, far.states[place], strict=True)]
        for place, states in own.states.items()
    }
    own = cells.Run(own.ids, own.logits, own.states, own.outputs, recorded.recorded)
    other = cells.Run(CLEAN, far.logits, near)
    patcher = cells.Patcher(model, own, other, tuple(range(len(CLEAN))))
    return patcher, several, sweep._Metric(metric, ANSWER, FOIL, far.logits)


def test_an_estimate_is_marked_and_a_measurement_replaces_it(case: Case) -> None:
    estimate = swept(case, exact=False)
    assert not estimate.measured.any()
    assert np.isfinite(estimate.raw).all()
    part = swept(case, first=1, last=2)
    assert part.measured.any(1).tolist() == [False, True, True, False]
    both = estimate.with_measured(part)
    whole_sweep = swept(case)
    assert np.allclose(both.raw[1:3], whole_sweep.raw[1:3], atol=1e-6)
    assert np.array_equal(both.raw[0], estimate.raw[0])
    assert both.measured.sum() == 2 * len(CLEAN)
