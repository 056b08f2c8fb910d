"""Secondary tokens: subtract one decoder row after another from a state."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.lens.cells import Reader
from analysis.lens.specs import LensSpec
from analysis.model.readout import Readout

#: InTraVisTo stops when the state's norm falls below this (utils.py).
SMALLEST_NORM = 0.01
Peeled = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]


def peel(readout: Readout, reader: Reader, states: Tensor, spec: LensSpec) -> Peeled:
    """Candidates of each state by subtraction or matching pursuit, one round for all at a time.

    Args:
        readout: The model's readout.
        reader: Which decoder.
        states: [n, d_model] un-normed.
        spec: Gives the method and k.

    Returns:
        ids [n, k] (-1 pads), scores [n, k], explained share [n, k] (NaN for subtraction).
    """
    method = _Subtraction if spec.candidates == "subtraction" else _Pursuit
    peeling = method(readout, reader, states.float().clone(), spec)
    for _ in range(spec.k):
        if not peeling.round():
            break
    return peeling.ids, peeling.scores, peeling.explained


class _Peeling:
    """The candidates so far, and the remainders of the states that are not finished."""

    def __init__(self, readout: Readout, reader: Reader, states: Tensor, spec: LensSpec) -> None:
        self.readout, self.reader, self.states, self.norm = readout, reader, states, spec.norm
        self.ids = np.full((len(states), spec.k), -1, np.int64)
        self.scores = np.full(self.ids.shape, np.nan, np.float32)
        self.explained = self.scores.copy()
        self.count = np.zeros(len(states), np.int64)
        self.alive = torch.arange(len(states), device=states.device)

    def add(self, places: NDArray[np.int64], values: dict[str, Tensor]) -> None:
        """Append one candidate each to the lists of the states at ``places``."""
        for name, value in values.items():
            getattr(self, name)[places, self.count[places]] = value.cpu().numpy()
        self.count[places] += 1


class _Subtraction(_Peeling):
    """InTraVisTo's iterative decoding (2024, utils.py), without repeated tokens.

    The best token's decoder row is subtracted from the un-normed state. A state is finished when
    its norm is at most 0.01 or has not fallen since the round before.
    """

    def __init__(self, readout: Readout, reader: Reader, states: Tensor, spec: LensSpec) -> None:
        super().__init__(readout, reader, states, spec)
        self.rows = reader.rows()
        self.before = torch.full((len(states),), torch.inf, device=states.device)

    def round(self) -> bool:
        """Subtract one token from each state; False if all states are finished."""
        norm = self.states[self.alive].norm(dim=-1)
        on = (norm > SMALLEST_NORM) & (norm < self.before[self.alive])
        self.alive, norm = self.alive[on], norm[on]
        if not len(self.alive):
            return False
        self.before[self.alive] = norm
        raw = self.states[self.alive].to(self.readout.output_rows.dtype)
        best, token = self.reader.logits(self.readout.normed(raw, self.norm)).max(-1)
        places = self.alive.cpu().numpy()
        new = ~(self.ids[places] == token.cpu().numpy()[:, None]).any(-1)
        mask = torch.from_numpy(new).to(token.device)
        self.add(places[new], {"ids": token[mask], "scores": best[mask]})
        self.states[self.alive] -= self.rows[token]
        return True


class _Pursuit(_Peeling):
    """Matching pursuit (Mallat and Zhang 1993) over the decoder's unit rows."""

    def __init__(self, readout: Readout, reader: Reader, states: Tensor, spec: LensSpec) -> None:
        super().__init__(readout, reader, states, spec)
        self.units = torch.nn.functional.normalize(reader.rows(), dim=-1)
        self.whole = states.square().sum(-1)
        self.alive = self.alive[self.whole > 0.0]

    def round(self) -> bool:
        """Project the nearest unit row out of each state; False if all states are finished."""
        best, token = (self.states[self.alive] @ self.units.T).max(-1)
        on = best > 0.0
        self.alive, best, token = self.alive[on], best[on], token[on]
        if not len(self.alive):
            return False
        self.states[self.alive] -= best[:, None] * self.units[token]
        left = self.states[self.alive].square().sum(-1) / self.whole[self.alive]
        places = self.alive.cpu().numpy()
        self.add(places, {"ids": token, "scores": best, "explained": 1.0 - left})
        return True
