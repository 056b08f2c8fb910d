"""Where a carry can be read off a state by a linear probe, and where the raw digit sum can.

Ridge regression on standardised states, fitted on some sums and judged on others: a carry by
the sign of the fitted value (balanced accuracy), a raw digit sum by the largest of nineteen.
The control has the labels shuffled among the sums, so what it reads is chance and overfitting.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis import progress
from analysis.models.handle import Model
from analysis.results.base import Floats
from analysis.results.tasks import ProbeReport, Projection
from analysis.tasks.columns import Table
from analysis.tasks.components import Component, all_of, collect

RIDGE = 1e-2
_SUMS = 19


def report(
    model: Model,
    sums: Table,
    wanted: tuple[Component, ...] | None = None,
    *,
    held_out: float = 0.3,
    seed: int = 0,
) -> ProbeReport:
    """Probe every component at every position for every carry and every raw digit sum.

    Args:
        model: The model.
        sums: From ``columns.drawn``; five times as many as d_model or more.
        wanted: Which components; all unless given.
        held_out: Share of the sums that probes are judged on.
        seed: Of the split and the shuffling.

    Raises:
        CancelledError: If the caller's progress listener stops the work.
    """
    wanted = all_of(model) if wanted is None else wanted
    fit, test, shuffling = _split(len(sums.a), held_out, seed)
    targets = _Targets(sums)
    mixed = targets.shuffled(shuffling)
    shape = (len(targets.names), len(wanted), len(sums.places))
    accuracy, control = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for number, component in enumerate(wanted):
        states = collect(model, sums, (component,), f"Reading {component.name}")[component]
        for place in range(shape[2]):
            both = (targets.values, mixed.values)
            fitted = _fitted(torch.from_numpy(states[:, place]), both, fit, test)
            accuracy[:, number, place] = targets.judged(fitted[0], test)
            control[:, number, place] = mixed.judged(fitted[1], test)
        progress.step(number + 1, len(wanted), "Fitting probes")
        progress.pause()
    names = tuple(component.name for component in wanted)
    return ProbeReport(
        names, sums.places, targets.names, accuracy, control, targets.chance, len(fit), len(test)
    )


def _split(count: int, held_out: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which sums to fit on and which to judge on, and an order that shuffles labels."""
    rng = np.random.default_rng([seed, 7])
    order = torch.from_numpy(rng.permutation(count))
    kept = int(held_out * count)
    return order[kept:], order[:kept], torch.from_numpy(rng.permutation(count))


@torch.no_grad()
def _fitted(
    states: Tensor, targets: tuple[Tensor, Tensor], fit: Tensor, test: Tensor
) -> tuple[Tensor, Tensor]:
    """Ridge predictions [test, column] of two target matrices from one set of states."""
    mean, spread = states[fit].mean(0), states[fit].std(0) + 1e-6
    known = ((states - mean) / spread).double()
    gram = known[fit].T @ known[fit]
    gram.diagonal().add_(RIDGE * len(fit))
    factor = torch.linalg.cholesky(gram)
    found = []
    for target in targets:
        offset = target[fit].double().mean(0)
        weights = torch.cholesky_solve(known[fit].T @ (target[fit].double() - offset), factor)
        found.append(known[test] @ weights + offset)
    return found[0], found[1]


class _Targets:
    """All that is probed for, side by side: a sign for each carry, nineteen columns a digit sum."""

    def __init__(self, sums: Table) -> None:
        self.digits = sums.digits
        self.carry = torch.from_numpy(sums.carry[:, 1:])
        self.sums = torch.from_numpy(sums.sums)
        signs = 2 * self.carry - 1
        one_hot = torch.nn.functional.one_hot(self.sums, _SUMS).flatten(1)
        self.values = torch.cat([signs, one_hot], 1)
        carries = [f"carry{column}" for column in range(1, self.digits + 1)]
        self.names = (*carries, *(f"sum{column}" for column in range(self.digits)))

    def shuffled(self, order: Tensor) -> _Targets:
        """The same labels given to other sums."""
        made = _Targets.__new__(_Targets)
        made.digits, made.names = self.digits, self.names
        made.carry, made.sums = self.carry[order], self.sums[order]
        made.values = self.values[order]
        return made

    @property
    def chance(self) -> Floats:
        """[target] balanced: a half; a raw sum: the share of the most frequent one."""
        most = [
            float(torch.bincount(self.sums[:, column]).max()) / len(self.sums)
            for column in range(self.digits)
        ]
        return np.array([0.5] * self.digits + most, np.float32)

    def judged(self, fitted: Tensor, test: Tensor) -> Any:
        """[target] accuracy of fitted values [test, column]."""
        found = [
            _balanced(fitted[:, column] > 0, self.carry[test, column] == 1)
            for column in range(self.digits)
        ]
        for column in range(self.digits):
            start = self.digits + _SUMS * column
            best = fitted[:, start : start + _SUMS].argmax(1)
            found.append(float((best == self.sums[test, column]).float().mean()))
        return found


def _balanced(said: Tensor, true: Tensor) -> float:
    """Mean of the accuracies with and without; NaN where one of them never happens."""
    both = [float((said[true == kind] == kind).float().mean()) for kind in (True, False)]
    return sum(both) / 2


def projection(
    model: Model, sums: Table, component: Component, place: int, column: int
) -> Projection:
    """States on their two main axes, to be coloured by digit sum and by carry into ``column``."""
    states = collect(model, sums, (component,), "Projecting states")[component][:, place]
    centred = states - states.mean(0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    explained = sizes[:2] ** 2 / max(float((sizes**2).sum()), 1e-30)
    below = min(column, sums.digits - 1)
    return Projection(
        component.name,
        sums.places[place],
        (centred @ axes[:2].T).astype(np.float32),
        explained.astype(np.float32),
        sums.carry[:, column],
        sums.sums[:, below],
        column,
    )
