"""States of a text, made once: [row, token, d_model] float32 in a file that is mapped."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from analysis import progress
from analysis.capture import trace
from analysis.errors import StoreError
from analysis.models.handle import Model
from analysis.results.base import Floats

#: One over the normal distribution's third quartile: from a median of |x| to a deviation.
_MEDIAN_TO_DEVIATION = 1.4826
_SMALLEST_SCALE = 1e-6
#: Tokens whose states the scales are taken from.
_SCALE_TOKENS = 4096


def size_of(texts: Sequence[Sequence[int]]) -> int:
    """Tokens in all."""
    return sum(len(text) for text in texts)


def cached(model: Model, texts: Sequence[Sequence[int]], path: Path) -> Floats:
    """[row, token, d_model] states of every token of every text, texts one after the other.

    The file appears whole or not at all, so what a killed run left behind is made anew.

    Raises:
        StoreError: If the disk has no room for them.
    """
    shape = (model.info.layers + 1, size_of(texts), model.info.d_model)
    if not path.is_file():
        half = path.with_suffix(".part")
        target = np.lib.format.open_memmap(half, mode="w+", dtype=np.float32, shape=shape)
        _reserve(half)
        _fill(model, texts, target)
        target.flush()
        del target
        half.replace(path)
    found: Floats = np.load(path, mmap_mode="r", allow_pickle=False)
    return found


def _reserve(path: Path) -> None:
    """Have the disk hold the whole file now: a page that finds no room later ends the process."""
    if sys.platform != "linux":
        return  # no such call elsewhere
    size = path.stat().st_size
    try:
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise StoreError(
            f"The states of the text take {size / 1e6:.1f} MB in {path.parent}: {error.strerror}.",
            "Free some space there and go on by --resume, or take fewer --tokens.",
        ) from error


def _fill(model: Model, texts: Sequence[Sequence[int]], target: Floats) -> None:
    start = 0
    for number, text in enumerate(texts):
        target[:, start : start + len(text)] = trace(model, text).resid
        start += len(text)
        progress.step(number + 1, len(texts), "States of the text")


def scales(states: Floats) -> tuple[torch.Tensor, torch.Tensor]:
    """How large the states of each row before the last are, from medians.

    Medians, since a few positions carry coordinates a thousand times the others'.

    Returns:
        [row, d_model] typical size of each coordinate, and [row] of the whole state.
    """
    step = max(states.shape[1] // _SCALE_TOKENS, 1)
    inner, outer = [], []
    for row in range(states.shape[0] - 1):
        part = np.abs(states[row, ::step])
        inner.append(np.median(part, axis=0) * _MEDIAN_TO_DEVIATION)
        outer.append(np.median(np.sqrt((part**2).mean(-1))))
    floor = np.maximum(np.array(outer)[:, None] * 1e-2, _SMALLEST_SCALE)
    scale_in = np.maximum(np.stack(inner), floor).astype(np.float32)
    scale_out = np.maximum(np.array(outer), _SMALLEST_SCALE).astype(np.float32)
    return torch.from_numpy(scale_in), torch.from_numpy(scale_out)
