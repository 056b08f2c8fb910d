"""Damaged lens files: NaN values and a full disk."""

from __future__ import annotations

import errno
import os
import resource
import sys
from pathlib import Path

import pytest
import torch

import analysis
from analysis.errors import StoreError
from analysis.learned import library, translators
from analysis.learned.translators import new_lens
from analysis.lens_training import fit
from analysis.model.handle import Model


@pytest.fixture(scope="module")
def opened(tiny_llama_dir: Path) -> Model:
    """The tiny untied Llama as the catalogue knows it."""
    return analysis.load_model(str(tiny_llama_dir))


@pytest.fixture
def toy(opened: Model, tmp_path: Path) -> library.LensInfo:
    """An untrained lens with its initial values."""
    layers, width = opened.info.layers, opened.info.d_model
    lens = new_lens(torch.ones(layers, width), torch.ones(layers), 3, 0)
    info = library.LensInfo(
        path=tmp_path / "toy" / "toy.safetensors", model="toy", fingerprints=("none",),
        layers=layers, d_model=width, vocab=opened.info.vocab, rank=3, nbytes=0, digest="",
        text="", tokens=0, steps=0, seed=0, command="", evaluations=(),
    )  # fmt: skip
    return translators.save_lens(lens, info)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_values_are_refused(toy: library.LensInfo, tmp_path: Path, value: float) -> None:
    tensors, document = translators.read(toy.path, "lens")
    tensors["bias"][0, 0] = value
    path = tmp_path / "odd.safetensors"
    translators.write(path, tensors, document, "lens")
    with pytest.raises(StoreError, match="not finite"):
        translators.load_lens(library.describe(path))


@pytest.mark.parametrize("name", ["bias", "down"])
def test_numbers_of_another_shape_are_refused(
    toy: library.LensInfo, tmp_path: Path, name: str
) -> None:
    tensors, document = translators.read(toy.path, "lens")
    path = tmp_path / "odd.safetensors"
    for odd in (tensors[name][:1], tensors[name].flatten()[:3]):
        translators.write(path, {**tensors, name: odd}, document, "lens")
        with pytest.raises(StoreError, match="incomplete"):
            translators.load_lens(library.describe(path))


@pytest.mark.skipif(sys.platform != "linux", reason="the call that promises room is Linux's")
def test_disk_space_is_checked_before_the_first_state_is_written(
    opened: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, held = tmp_path / "states.npy", []

    def look(*_: object) -> None:
        found = path.with_suffix(".part").stat()
        held.append(found.st_blocks * 512 >= found.st_size)

    text = [tuple(range(5, 95))] * 20
    monkeypatch.setattr(fit, "_fill", look)
    fit.cached_states(opened, text, path)
    assert held == [True]
    path.unlink()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StoreError, match="No space left"):
        fit.cached_states(opened, text, path)
    assert not any(tmp_path.iterdir())


def test_a_checkpoint_without_disk_space_gives_a_message(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(StoreError, match="can't be written"):
            translators.write(tmp_path / "checkpoint", {"x": torch.zeros(9999)}, {}, "fit")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not any(tmp_path.iterdir())
