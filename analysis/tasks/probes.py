"""Where a carry can be read off a state by a linear probe, and where the raw digit sum can.

Ridge regression on standardised states, fitted on some sums and judged on others: a carry by
the sign of the fitted value (balanced accuracy), a raw digit sum by the largest of nineteen.
The control has the labels shuffled among the sums, so what it reads is chance and overfitting.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.contract import progress
from analysis.contract.results import Floats
from analysis.errors import SpecError
from analysis.lens.cells import entries
from analysis.model.handle import Model
from analysis.store.memo import Memo
from analysis.tasks.components import Component, affordable, all_of, collect, named
from analysis.tasks.specs import ProbeSpec, ProjectionSpec
from analysis.tasks.sum_results import ProbeReport, Projection
from analysis.tasks.sum_table import Table, table_for_model

RIDGE = 1e-2
_SUMS = 19
#: Bytes of states held at once.
HELD_BYTES = 384 << 20
#: Sums whose texts are kept in the report.
EXAMPLES = 60


def report(
    model: Model,
    sums: Table,
    wanted: tuple[Component, ...] | None = None,
    *,
    places: Sequence[int] | None = None,
    held_out: float = 0.3,
    seed: int = 0,
) -> ProbeReport:
    """Probe components at positions for every carry and every raw digit sum.

    Args:
        model: The model.
        sums: From ``columns.drawn``; five times as many as d_model or more.
        wanted: Which components; all unless given.
        places: Which positions; all unless given. Those that write the digits that are probed
            for must be among them: the report points them out.
        held_out: Share of the sums that probes are judged on.
        seed: Of the split and the shuffling.

    Raises:
        SpecError: If a place does not exist, or one that writes a digit is left out.
        CancelledError: If the caller's progress listener stops the work.
    """
    wanted = all_of(model) if wanted is None else wanted
    where = _where(sums, places)
    fit, test, order = _split(len(sums.a), held_out, seed)
    targets = _Targets(sums)
    mixed, shape = targets.shuffled(order), (len(targets.names), len(wanted), len(where))
    accuracy, control, done = np.zeros(shape, np.float32), np.zeros(shape, np.float32), 0
    for part in _together(model, wanted, len(sums.a) * len(where)):
        states = collect(model, sums, part, "Reading states", where)
        for component in part:
            found = _read_off(states[component], (targets, mixed), fit, test)
            accuracy[:, done], control[:, done] = found
            done += 1
            progress.step(done, len(wanted), "Fitting probes")
    return _told(sums, wanted, where, targets, accuracy, control, (len(fit), len(test)))


def _where(sums: Table, places: Sequence[int] | None) -> list[int]:
    """The positions to probe, counted from the start, each once."""
    if places is None:
        return list(range(len(sums.places)))
    where = list(dict.fromkeys(entries("Place", tuple(places), len(sums.places))))
    writing = {answer - 1 for answer in sums.answers[: sums.digits + 1]}
    if missing := sorted(writing - set(where)):
        raise SpecError(
            "A digit that is probed for is written where nothing is asked for: at "
            f"{', '.join(map(str, missing))}.",
            "Ask for these places too, or leave the places out.",
        )
    return where


def _told(
    sums: Table, wanted: Sequence[Component], where: list[int], targets: _Targets,
    accuracy: Floats, control: Floats, sizes: tuple[int, int],
) -> ProbeReport:  # fmt: skip
    writes = [where.index(sums.answers[column] - 1) for column in targets.columns]
    facts = torch.cat([targets.carry, targets.sums], 1).numpy()
    return ProbeReport(
        tuple(component.name for component in wanted), tuple(sums.places[p] for p in where),
        targets.names, accuracy, control, targets.chance, *sizes, np.array(where, np.int64),
        np.array(writes, np.int64), sums.texts[:EXAMPLES], facts[:EXAMPLES], sums.length,
    )  # fmt: skip


def _together(
    model: Model, wanted: tuple[Component, ...], cells: int
) -> Iterator[tuple[Component, ...]]:
    """The components in portions whose states fit into memory together."""
    size = max(HELD_BYTES // (4 * cells * model.info.d_model), 1)
    for start in range(0, len(wanted), size):
        yield wanted[start : start + size]


def _split(count: int, held_out: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which sums to fit on and which to judge on, and an order that shuffles labels."""
    rng = np.random.default_rng([seed, 7])
    order = torch.from_numpy(rng.permutation(count))
    kept = int(held_out * count)
    return order[kept:], order[:kept], torch.from_numpy(rng.permutation(count))


def _read_off(
    states: Floats, labels: tuple[_Targets, _Targets], fit: Tensor, test: Tensor
) -> Floats:
    """[labels, target, place] accuracy of probes on states [sum, place, d_model]."""
    found = np.zeros((2, len(labels[0].names), states.shape[1]), np.float32)
    for place in range(states.shape[1]):
        own = torch.from_numpy(states[:, place])
        fitted = _fitted(own, (labels[0].values, labels[1].values), fit, test)
        for number, (one, values) in enumerate(zip(labels, fitted, strict=True)):
            found[number, :, place] = one.judged(values, test)
        progress.pause()
    return found


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
        self.columns = (*range(1, self.digits + 1), *range(self.digits))

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
    states = collect(model, sums, (component,), "Projecting states", [place])[component][:, 0]
    centred = states - states.mean(0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    explained = sizes[:2] ** 2 / max(float((sizes**2).sum()), 1e-30)
    own = sums.sums[:, column] if column < sums.digits else np.zeros_like(sums.a)
    return Projection(
        component.name,
        sums.places[place],
        (centred @ axes[:2].T).astype(np.float32),
        explained.astype(np.float32),
        sums.carry[:, column],
        own,
        column,
        place,
        sums.texts,
        sums.length,
    )


#: Fewer different sums than this can't be split into some to fit on and others to judge by.
FEWEST = 40


def compute(
    model: Model, spec: ProbeSpec, memo: Memo | None = None, longest: int | None = None
) -> ProbeReport:
    """Where carries and digit sums can be read; a large model's rows, a small one's every part."""
    sums = table_for_model(model, spec.digits, spec.sums, spec.seed)
    if len(sums.a) < FEWEST:
        raise SpecError(f"There are only {len(sums.a)} such sums.", "Use more digits.")
    every = affordable(model)
    heads = any(component.kind == "head" for component in every)
    wanted = every if heads else tuple(one for one in every if one.kind == "row")
    return report(model, sums, wanted, places=sums.own, seed=spec.seed)


def compute_projection(
    model: Model, spec: ProjectionSpec, memo: Memo | None = None, longest: int | None = None
) -> Projection:
    """States of one component on their two main axes.

    Raises:
        SpecError: If there is no such component, place or column.
    """
    sums = table_for_model(model, spec.digits, spec.sums, spec.seed)
    column = min(spec.column, sums.digits)
    place = sums.answers[column] - 1
    if spec.place:
        if spec.place not in sums.places:
            raise SpecError(
                f"These sums have no place called {spec.place!r}.",
                f"Choose one of: {', '.join(sums.places[p] for p in sums.own)}.",
            )
        place = sums.places.index(spec.place)
    return projection(model, sums, named(model, spec.component), place, column)
