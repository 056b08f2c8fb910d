"""Saved directions: steering by one equals steering by its vector, on its own model only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import analysis
from analysis.errors import SpecError, StoreError
from analysis.interventions import Steer, SteerDirection
from analysis.learned.library import key_part
from analysis.tracing import directions
from analysis.tracing.specs import TraceSpec
from tests.numerical.conftest import Case

IDS = [1, 2, 3, 4]


@pytest.fixture
def vector(small: Case) -> Any:
    rng = np.random.default_rng(3)
    return rng.standard_normal(small.model.info.d_model).astype(np.float32)


def test_steering_by_a_saved_direction_adds_its_vector(
    small: Case, vector: Any, data_dir: Path
) -> None:
    saved = analysis.save_direction(small.model, "up.1", vector, row=1, source="A test.")
    assert saved.norm == pytest.approx(np.linalg.norm(vector), rel=1e-6)
    assert directions.of_fingerprint(small.model.info.fingerprint) == (saved,)
    for pos, strength in ((2, 1.5), (None, -3.0)):
        steered = analysis.trace(small.model, IDS, [SteerDirection(1, pos, "up.1", strength)])
        wanted = analysis.trace(small.model, IDS, [Steer(1, pos, strength * vector)])
        assert np.array_equal(steered.logits, wanted.logits)
        plain = analysis.trace(small.model, IDS)
        places = slice(None) if pos is None else [pos]
        moved = steered.resid[1][places] - plain.resid[1][places]
        assert moved == pytest.approx(np.broadcast_to(strength * vector, moved.shape), abs=1e-4)
    made = analysis.generate(
        small.model, IDS, 3, interventions=SteerDirection(1, None, "up.1", 9.0)
    )
    by_vector = Steer(1, None, 9.0 * vector)
    assert made == analysis.generate(small.model, IDS, 3, interventions=by_vector)


def test_a_direction_of_another_model_is_refused(small: Case, vector: Any, data_dir: Path) -> None:
    info = small.model.info
    analysis.save_direction(small.model, "mine", vector)
    other = replace(info, fingerprint="0" * 32, name="other")
    with pytest.raises(SpecError, match=f"belongs to other weights or another dtype: {info.name}"):
        directions.load(other, "mine")
    assert directions.of_fingerprint(other.fingerprint) == ()
    with pytest.raises(SpecError, match="There is no saved direction 'yours'"):
        analysis.trace(small.model, IDS, [SteerDirection(1, 0, "yours")])


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".a", "a b", "a:b", "x" * 61, "é"])
def test_a_name_that_is_no_file_name_is_refused(
    small: Case, vector: Any, data_dir: Path, name: str
) -> None:
    for refused in (
        lambda: analysis.save_direction(small.model, name, vector),
        lambda: SteerDirection(1, 0, name),
    ):
        with pytest.raises(SpecError, match="A direction can't have the name"):
            refused()


def test_a_name_is_taken_until_it_is_replaced(small: Case, vector: Any, data_dir: Path) -> None:
    edits = (SteerDirection(1, 0, "one"),)
    spec, mark = TraceSpec("m", (1, 2), edits), small.model.info.fingerprint
    assert key_part(mark, (TraceSpec("m", (1, 2)),)) == ""
    keys = {key_part(mark, (spec,))}
    analysis.save_direction(small.model, "one", vector)
    keys.add(key_part(mark, (spec,)))
    with pytest.raises(SpecError, match="There is already a direction 'one'"):
        analysis.save_direction(small.model, "one", vector)
    analysis.save_direction(small.model, "one", 2 * torch.from_numpy(vector), replace=True)
    keys.add(key_part(mark, (spec,)))
    assert len(keys) == 3  # the memo never answers with the numbers of another vector
    assert np.array_equal(directions.load(small.model.info, "one"), 2 * vector)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (np.zeros(5), "A state must have the shape"),
        (None, "A state of .* numbers is needed"),
        (0.0, "The direction is zero"),
        (float("nan"), "NaN or infinite"),
    ],
)
def test_a_vector_that_does_not_fit_is_refused(
    small: Case, data_dir: Path, bad: Any, said: str
) -> None:
    values = np.full(small.model.info.d_model, bad) if isinstance(bad, float) else bad
    with pytest.raises(SpecError, match=said):
        analysis.save_direction(small.model, "bad", values)
    assert directions.every() == ()


def test_a_damaged_file_is_skipped_and_named(small: Case, vector: Any, data_dir: Path) -> None:
    analysis.save_direction(small.model, "good", vector)
    folder = directions.folder()
    content = (folder / "good.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(content[:40])
    (folder / "renamed.safetensors").write_bytes(content)
    assert [one.name for one in directions.every()] == ["good"]
    for name in ("cut", "renamed"):
        with pytest.raises(StoreError, match=name):
            directions.load(small.model.info, name)
