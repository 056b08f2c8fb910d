"""Secondary tokens: peel one decoder row after another off a state."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.decoders import Reader
from analysis.models.readout import Readout
from analysis.specs import LensSpec

#: InTraVisTo stops when less than this is left of the state (utils.py).
SMALLEST_NORM = 0.01
Peeled = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]


def peel(readout: Readout, reader: Reader, states: Tensor, spec: LensSpec) -> Peeled:
    """Candidates of each state by subtraction or matching pursuit.

    Args:
        readout: The model's readout.
        reader: Which decoder.
        states: [n, d_model] un-normed.
        spec: Gives the method and k.

    Returns:
        ids [n, k] (-1 pads), scores [n, k], explained share [n, k] (NaN for subtraction).
    """
    ids = np.full((len(states), spec.k), -1, np.int64)
    scores = np.full(ids.shape, np.nan, np.float32)
    explained = np.full(ids.shape, np.nan, np.float32)
    method = _subtraction if spec.candidates == "subtraction" else _pursuit
    rows = reader.rows()
    units = torch.nn.functional.normalize(rows, dim=-1)
    for place, state in enumerate(states.float()):
        found = method(readout, reader, rows if method is _subtraction else units, state, spec)
        for number, (token, score, share) in enumerate(found):
            ids[place, number], scores[place, number] = token, score
            explained[place, number] = share
    return ids, scores, explained


Found = list[tuple[int, float, float]]


def _subtraction(
    readout: Readout, reader: Reader, rows: Tensor, state: Tensor, spec: LensSpec
) -> Found:
    """InTraVisTo's iterative decoding (2024, utils.py); repeats are not shown twice."""
    found: Found = []
    before = float("inf")
    for _ in range(spec.k):
        norm = float(state.norm())
        if norm <= SMALLEST_NORM or norm >= before:
            break
        before = norm
        normed = readout.normed(state[None].to(readout.output_rows.dtype), spec.norm)
        best, token = reader.logits(normed)[0].max(-1)
        if int(token) not in {entry[0] for entry in found}:
            found.append((int(token), float(best), float("nan")))
        state = state - rows[token]
    return found


def _pursuit(
    readout: Readout, reader: Reader, units: Tensor, state: Tensor, spec: LensSpec
) -> Found:
    """Matching pursuit (Mallat and Zhang 1993) over the decoder's unit rows."""
    found: Found = []
    whole = float(state.square().sum())
    for _ in range(spec.k):
        best, token = (units @ state).max(-1)
        if whole == 0.0 or float(best) <= 0.0:
            break
        state = state - best * units[token]
        share = 1.0 - float(state.square().sum()) / whole
        found.append((int(token), float(best), share))
    return found
