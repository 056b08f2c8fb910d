"""Linear probes: which states hold a carry, and which hold the raw digit sum.

Ridge regression on standardised states, fitted on some sums and evaluated on others: a carry by
the sign of the prediction (balanced accuracy), a raw digit sum by the largest of nineteen outputs.
The control has its labels shuffled among the sums: its accuracy is chance and overfitting.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from analysis.contract import jobs
from analysis.contract.specs import Floats, resolve_index
from analysis.errors import SpecError
from analysis.lens.specs import entries
from analysis.model.handle import Model
from analysis.store.memo import Memo
from analysis.tasks.sum_specs import ProbeReport, ProbeSpec, Projection, ProjectionSpec
from analysis.tasks.sum_table import (
    Component,
    Table,
    affordable_components,
    all_components,
    collect_states,
    component_named,
    table_for_model,
)

RIDGE = 1e-2
_SUMS = 19
#: Fewer different sums can't be split into a part to fit and a part to evaluate.
MIN_SUMS = 40
#: Share of the sums that probes are evaluated on.
HELD_OUT = 0.3
#: Bytes of states held at once.
MAX_BYTES = 384 << 20
#: Number of sums whose texts are in the report.
EXAMPLES = 60


def report(
    model: Model,
    sums: Table,
    components: tuple[Component, ...] | None = None,
    *,
    places: Sequence[int] | None = None,
    held_out: float = HELD_OUT,
    seed: int = 0,
) -> ProbeReport:
    """Probe components at positions for every carry and every raw digit sum.

    Args:
        model: The model.
        sums: From ``sum_table``; at least five times as many as d_model.
        components: The components to probe; all unless given.
        places: The positions; all unless given. They must include the positions that predict the
            digits that are probed for, which the report marks.
        held_out: Share of the sums that probes are evaluated on.
        seed: The seed of the split and the shuffling.

    Raises:
        SpecError: If a place does not exist, or one that predicts a digit is left out.
        CancelledError: If the caller's progress listener stops the work.
    """
    components = all_components(model) if components is None else components
    where = _positions(sums, places)
    fit, test, order = _split(len(sums.a), held_out, seed)
    targets = _Targets(sums)
    mixed, shape = targets.shuffled(order), (len(targets.names), len(components), len(where))
    accuracy, control, done = np.zeros(shape, np.float32), np.zeros(shape, np.float32), 0
    for part in _portions(model, components, len(sums.a) * len(where)):
        states = collect_states(model, sums, part, "Reading states", where)
        for component in part:
            found = _probe_accuracy(states[component], (targets, mixed), fit, test)
            accuracy[:, done], control[:, done] = found
            done += 1
            jobs.step(done, len(components), "Fitting probes")
    facts = torch.cat([targets.carry, targets.sums], 1).numpy()
    predicting = [where.index(sums.answers[column] - 1) for column in targets.columns]
    return ProbeReport(
        components=tuple(component.name for component in components),
        places=tuple(sums.places[position] for position in where),
        targets=targets.names,
        accuracy=accuracy,
        control=control,
        chance=targets.chance,
        fitted=len(fit),
        held_out=len(test),
        positions=np.array(where, np.int64),
        written=np.array(predicting, np.int64),
        prompts=sums.texts[:EXAMPLES],
        values=facts[:EXAMPLES],
        length=sums.length,
    )


def _positions(sums: Table, places: Sequence[int] | None) -> list[int]:
    """The positions to probe, counted from the start, without repeats."""
    if places is None:
        return list(range(len(sums.places)))
    where = list(dict.fromkeys(entries("Place", tuple(places), len(sums.places))))
    predicting = {answer - 1 for answer in sums.answers[: sums.digits + 1]}
    if missing := sorted(predicting - set(where)):
        raise SpecError(
            f"The positions {', '.join(map(str, missing))} predict digits that are probed for.",
            "Add these positions, or leave the positions out.",
        )
    return where


def _portions(
    model: Model, components: tuple[Component, ...], cells: int
) -> Iterator[tuple[Component, ...]]:
    """The components, in portions whose states fit into memory together."""
    size = max(MAX_BYTES // (4 * cells * model.info.d_model), 1)
    for start in range(0, len(components), size):
        yield components[start : start + size]


def _split(count: int, held_out: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of the sums to fit on and to evaluate on, and an order that shuffles labels."""
    rng = np.random.default_rng([seed, 7])
    order = torch.from_numpy(rng.permutation(count))
    kept = int(held_out * count)
    return order[kept:], order[:kept], torch.from_numpy(rng.permutation(count))


def _probe_accuracy(
    states: Floats, labels: tuple[_Targets, _Targets], fit: Tensor, test: Tensor
) -> Floats:
    """[labels, target, place] accuracy of probes on states [sum, place, d_model]."""
    found = np.zeros((2, len(labels[0].names), states.shape[1]), np.float32)
    for place in range(states.shape[1]):
        own = torch.from_numpy(states[:, place])
        fitted = _fitted(own, (labels[0].values, labels[1].values), fit, test)
        for number, (one, values) in enumerate(zip(labels, fitted, strict=True)):
            found[number, :, place] = one.accuracy(values, test)
        jobs.pause()
    return found


@torch.no_grad()
def _fitted(
    states: Tensor, targets: tuple[Tensor, Tensor], fit: Tensor, test: Tensor
) -> tuple[Tensor, Tensor]:
    """Ridge predictions [test, column] of two target matrices from one set of states."""
    known, _ = _standardised(states, fit)
    factor = _factor(known[fit])
    found = []
    for target in targets:
        weights, offset = _ridge(known[fit], factor, target[fit])
        found.append(known[test] @ weights + offset)
    return found[0], found[1]


def _standardised(states: Tensor, fit: Tensor) -> tuple[Tensor, Tensor]:
    """[sum, d_model] states with mean 0 and spread 1 over the fitted sums; [d_model] the spread."""
    mean, spread = states[fit].mean(0), states[fit].std(0) + 1e-6
    return ((states - mean) / spread).double(), spread


def _factor(known: Tensor) -> Tensor:
    """The Cholesky factor of the Gram matrix with the ridge."""
    gram = known.T @ known
    gram.diagonal().add_(RIDGE * len(known))
    factor: Tensor = torch.linalg.cholesky(gram)
    return factor


def _ridge(known: Tensor, factor: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """[d_model, column] the weights, and [column] the offset, of ridge regression."""
    offset = target.double().mean(0)
    return torch.cholesky_solve(known.T @ (target.double() - offset), factor), offset


class ProbeDirection(NamedTuple):
    """The direction of a linear probe for a carry.

    Attributes:
        vector: [d_model] added to a state, it raises the probe's prediction by 1. The prediction
            is -1 for sums without the carry and 1 for sums with it.
        row: The residual row.
        place: The name of the position whose states were read. position: Its number.
        accuracy: Balanced accuracy of the probe on held-out sums, 0 to 1.
        source: What it is, in a sentence.
    """

    vector: Floats
    row: int
    place: str
    position: int
    accuracy: float
    source: str


def probe_direction(
    model: Model,
    target: str,
    row: int,
    *,
    place: str = "",
    digits: int = 3,
    sums: int = 800,
    seed: int = 0,
) -> ProbeDirection:
    """The direction in which the states of a row encode a carry, by a linear probe.

    The probe is that of the report ``probes``: ridge regression on standardised states. With ``g``
    the gradient of its prediction with respect to the state, the vector is ``g / |g|^2``: the
    shortest one that raises the prediction by 1. ``save_direction`` saves it.

    Args:
        model: From ``load_model``.
        target: "carry1" for the carry into the second column from the right, and so on.
        row: Residual row.
        place: Such as "a2", "equals" or "answer3"; the state that predicts the digit which the
            carry changes unless given.
        digits: Of each operand; the trained adder's own digits replace them.
        sums: Number of random sums.
        seed: Of the sums, and of the split into those to fit and those to evaluate.

    Raises:
        SpecError: If there is no such target, row or place, or the carry is always the same.
        CancelledError: If the caller's progress listener stops the work.
    """
    spec = ProbeSpec(model.info.name, digits, sums, seed)
    made = _sums(model, spec)
    labels, component = (
        _Targets(made),
        Component("row", resolve_index("Row", row, model.info.layers + 1)),
    )
    column = _carry(labels.names[: labels.digits], target)
    at = place_of(made, place, labels.columns[column])
    fit, test, _ = _split(len(made.a), HELD_OUT, seed)
    found = collect_states(model, made, (component,), "Reading states", [at])
    known, spread = _standardised(torch.from_numpy(found[component][:, 0]), fit)
    wanted = labels.values[:, column : column + 1]
    weights, offset = _ridge(known[fit], _factor(known[fit]), wanted[fit])
    gradient = weights[:, 0] / spread.double()
    if not bool(gradient.square().sum() > 0):
        raise SpecError(f"Every sum has the same {target}.", "Use more sums, or another carry.")
    accuracy = _balanced((known[test] @ weights + offset)[:, 0] > 0, wanted[test, 0] > 0)
    return ProbeDirection(
        (gradient / gradient.square().sum()).float().numpy(),
        component.index,
        made.places[at],
        at,
        accuracy,
        f"Linear probe for {target} in row {component.index} at {made.places[at]}, balanced"
        f" accuracy {accuracy:.3f} on {len(test)} held-out sums.",
    )


def _carry(names: Sequence[str], target: str) -> int:
    """The index of a carry.

    Raises:
        SpecError: If there is none of that name.
    """
    if target not in names:
        raise SpecError(f"There is no carry {target!r}.", f"Choose one of: {', '.join(names)}.")
    return names.index(target)


def place_of(sums: Table, name: str, column: int) -> int:
    """The position of a name; of the state that predicts the digit of ``column`` if it is empty.

    Raises:
        SpecError: If the sums have no position of that name.
    """
    if not name:
        return sums.answers[column] - 1
    if name not in sums.places:
        raise SpecError(
            f"These sums have no position named {name!r}.",
            f"Choose one of: {', '.join(sums.places[p] for p in sums.own)}.",
        )
    return sums.places.index(name)


class _Targets:
    """All labels side by side: one sign for each carry, nineteen columns for each digit sum."""

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
        """The same labels, assigned to other sums."""
        made = _Targets.__new__(_Targets)
        made.digits, made.names = self.digits, self.names
        made.carry, made.sums = self.carry[order], self.sums[order]
        made.values = self.values[order]
        return made

    @property
    def chance(self) -> Floats:
        """[target] 0.5 for carries (balanced); for a raw sum, the share of its mode."""
        most = [
            float(torch.bincount(self.sums[:, column]).max()) / len(self.sums)
            for column in range(self.digits)
        ]
        return np.array([0.5] * self.digits + most, np.float32)

    def accuracy(self, fitted: Tensor, test: Tensor) -> Any:
        """[target] accuracy of predictions [test, column]."""
        found = [
            _balanced(fitted[:, column] > 0, self.carry[test, column] == 1)
            for column in range(self.digits)
        ]
        for column in range(self.digits):
            start = self.digits + _SUMS * column
            best = fitted[:, start : start + _SUMS].argmax(1)
            found.append(float((best == self.sums[test, column]).float().mean()))
        return found


def _balanced(predicted: Tensor, true: Tensor) -> float:
    """Mean of the accuracies on true and on false labels; NaN if one of them is missing."""
    both = [float((predicted[true == kind] == kind).float().mean()) for kind in (True, False)]
    return sum(both) / 2


def projection(
    model: Model, sums: Table, component: Component, place: int, column: int
) -> Projection:
    """States on their two main axes, with the digit sum of ``column`` and the carry into it."""
    found = collect_states(model, sums, (component,), "Projecting states", [place])
    states = found[component][:, 0]
    centred = states - states.mean(0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    explained = sizes[:2] ** 2 / max(float((sizes**2).sum()), 1e-30)
    own = sums.sums[:, column] if column < sums.digits else np.zeros_like(sums.a)
    return Projection(
        component=component.name,
        place=sums.places[place],
        points=(centred @ axes[:2].T).astype(np.float32),
        explained=explained.astype(np.float32),
        carry=sums.carry[:, column],
        digit_sum=own,
        column=column,
        position=place,
        prompts=sums.texts,
        length=sums.length,
    )


def compute(
    model: Model, spec: ProbeSpec, _memo: Memo | None = None, _longest: int | None = None
) -> ProbeReport:
    """Probe a large model's rows, or all components of a small one.

    Raises:
        SpecError: If there are too few different sums.
    """
    sums = _sums(model, spec)
    components = affordable_components(model)
    if not any(component.kind == "head" for component in components):
        components = tuple(one for one in components if one.kind == "row")
    return report(model, sums, components, places=sums.own, seed=spec.seed)


def _sums(model: Model, spec: ProbeSpec) -> Table:
    """The sums of a spec.

    Raises:
        SpecError: If there are too few different ones.
    """
    sums = table_for_model(model, spec.digits, spec.sums, spec.seed)
    if len(sums.a) < MIN_SUMS:
        raise SpecError(f"There are only {len(sums.a)} such sums.", "Use more digits.")
    return sums


def compute_projection(
    model: Model, spec: ProjectionSpec, _memo: Memo | None = None, _longest: int | None = None
) -> Projection:
    """States of one component on their two main axes.

    Raises:
        SpecError: If there is no such component, place or column.
    """
    sums = table_for_model(model, spec.digits, spec.sums, spec.seed)
    column = min(spec.column, sums.digits)
    place = place_of(sums, spec.place, column)
    return projection(model, sums, component_named(model, spec.component), place, column)
