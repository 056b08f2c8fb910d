"""Which component passes a carry on: patch it from a sum with a carry into one without.

The sums of a pair have equal digits in the column and above it. Below they differ, so that a
carry enters the column in the donor only. The column's digits never add up to 9, so the carry out
of it is the same in both and no other written digit changes. If a component passes the carry on,
patching in the donor's output makes the written digit one more. The control's donor differs below
the column too, but without a carry.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.contract import jobs
from analysis.contract.specs import Floats, Ints
from analysis.errors import SpecError
from analysis.model.handle import Model
from analysis.model.stream import Edit
from analysis.store.memo import Memo
from analysis.tasks.batch import batch_size
from analysis.tasks.sum_specs import PatchReport, PatchSpec
from analysis.tasks.sum_table import (
    Component,
    Table,
    affordable_components,
    all_components,
    operand_digits,
    table,
)
from analysis.tracing.vectors import hook_component

EVERYWHERE = "everywhere"
#: With fewer pairs that the model answers correctly, nothing is patched.
MIN_PAIRS = 5


def report(
    model: Model,
    digits: int,
    *,
    pairs: int = 64,
    seed: int = 0,
    padded: bool = True,
    travels: bool = False,
    components: tuple[Component, ...] | None = None,
    columns: tuple[int, ...] | None = None,
    positions: str = "all",
) -> PatchReport:
    """Patch every component at every position, and at all of them, for every column.

    Args:
        model: A model that splits numbers into digits.
        digits: Of each operand.
        pairs: Pairs of sums for each column; pairs that the model gets wrong are left out.
        seed: The seed of the sums.
        padded: Whether sums are written as the trained adder reads them.
        travels: Whether the carry passes through the column just below, whose digits add up to 9;
            else it is made in that column.
        components: The components to patch; all unless given.
        columns: The columns that the carry enters; all that have enough columns below and a digit
            of their own unless given.
        positions: "all", or "written": only at the state that predicts the digit, and at all
            states together; the others stay NaN.

    Raises:
        CancelledError: If the caller's progress listener stops the work.
    """
    components = all_components(model) if components is None else components
    columns = tuple(range(1 + travels, digits)) if columns is None else columns
    rng = np.random.default_rng([seed, 13])
    trials = [_Trial(model, rng, pairs, digits, column, padded, travels) for column in columns]
    effect, control = _patch_all(trials, components, positions)
    receivers, donors, controls = (tuple(trial.texts[n] for trial in trials) for n in range(3))
    return PatchReport(
        components=tuple(component.name for component in components),
        places=(*trials[0].places, EVERYWHERE),
        columns=np.array(columns, np.int64),
        effect=effect,
        control=control,
        pairs=np.array([trial.count for trial in trials], np.int64),
        requested=pairs,
        positions=np.array([trial.position for trial in trials], np.int64),
        receivers=receivers,
        donors=donors,
        controls=controls,
        length=trials[0].length,
    )


def _patch_all(
    trials: list[_Trial], components: tuple[Component, ...], positions: str
) -> tuple[Floats, Floats]:
    """[column, component, place] effects of donors with a carry, and of controls."""
    shape = (len(trials), len(components), len(trials[0].places) + 1)
    effect, control = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    for number, component in enumerate(components):
        for row, trial in enumerate(trials):
            effect[row, number] = trial.effect(component, trial.donor, positions)
            control[row, number] = trial.effect(component, trial.control, positions)
        jobs.step(number + 1, len(components), "Patching")
    return effect, control


def pairs_for(
    rng: np.random.Generator, count: int, digits: int, column: int, padded: bool, travels: bool
) -> Ints:
    """[3, 2, pair] operands of receivers, of donors with a carry into ``column``, and of controls.

    With ``travels``, the column below adds up to 9 in all of them and the donor's carry passes
    through it; else the carry is made there.

    Raises:
        SpecError: If ``travels`` and the column has only one column below.
    """
    if travels and column < 2:
        raise SpecError("A carry travels only over two columns.", "Use column 2 or more.")
    made: list[Ints] = []
    base, unit = 10**column, 10 ** (column - 1)
    while len(made) < count:
        low = rng.integers(0, base, (3, 2))
        if travels:
            nine = int(rng.integers(0, 10))
            low = low % unit + unit * np.array([nine, 9 - nine])
        high = rng.integers(0, 10 ** (digits - column), 2)
        local = bool((low[1] // unit).sum() >= 10)
        carried = (low.sum(1) >= base).tolist() == [False, True, False]
        if (
            carried
            and (travels or local)
            and (high % 10).sum() != 9
            and (padded or _written_alike(high, digits, column))
        ):
            made.append(high[None] * base + low)
    return np.stack(made, -1)


def _written_alike(high: Ints, digits: int, column: int) -> bool:
    """Whether no operand has a leading zero and the sum has one digit more than the operands."""
    leading = bool((high >= 10 ** (digits - column - 1)).all())
    return leading and int(high.sum()) >= 10 ** (digits - column)


class _Trial:
    """The pairs of one column, and their states."""

    def __init__(
        self, model: Model, rng: Any, pairs: int, digits: int, column: int, padded: bool,
        travels: bool,
    ) -> None:  # fmt: skip
        self.model = model
        tables = [
            table(model, a, b, digits, padded=padded)
            for a, b in pairs_for(rng, pairs, digits, column, padded, travels)
        ]
        self.places, self.length = tables[0].places, tables[0].length
        self.position = tables[0].answers[column] - 1
        ids = [_ids(one) for one in tables]
        right = [one[:, self.position + 1] for one in ids]
        correct = [_next_digit(model, ids[n], self.position) == right[n] for n in (0, 1)]
        kept = np.flatnonzero((correct[0] & correct[1]).numpy())
        self.count, self.wanted = len(kept), right[1][kept]
        self.texts = [one.texts[kept[0]] if len(kept) else "" for one in tables]
        # Only the tokens before the digit.
        self.receiver, self.donor, self.control = (one[kept, : self.position + 1] for one in ids)

    def effect(self, component: Component, donor: Tensor, positions: str) -> Any:
        """[place + 1] share of pairs whose digit becomes the donor's, patched at each place."""
        shares = np.full(len(self.places) + 1, np.nan, np.float32)
        if self.count < MIN_PAIRS:
            return shares
        own, kept = (_outputs(self.model, component, ids) for ids in (self.receiver, donor))
        first = 0 if positions == "all" else self.position
        for place in (*range(first, self.position + 1), len(self.places)):
            jobs.pause()
            where = slice(None) if place == len(self.places) else slice(place, place + 1)
            if torch.equal(own[:, where], kept[:, where]):
                shares[place] = 0.0  # equal outputs: the patch changes nothing
                continue
            digits = _patched(self.model, component, self.receiver, kept, where)
            shares[place] = float((digits == self.wanted).float().mean())
        return shares


def _ids(sums: Table) -> Tensor:
    return torch.tensor([list(one.token_ids) for one in sums.encoded])


@torch.no_grad()
def _next_digit(model: Model, ids: Tensor, position: int) -> Tensor:
    """[sum] the model's top token after ``position``."""
    chosen = []
    for part in torch.split(ids[:, : position + 1], batch_size(model, position + 1)):
        with model.lock:
            logits = model.hf(input_ids=part.to(model.device), use_cache=False).logits
        chosen.append(logits[:, -1].argmax(-1).cpu())
        jobs.pause()
    return torch.cat(chosen)


def _outputs(model: Model, component: Component, ids: Tensor) -> Tensor:
    """A component's output in a run, in the form in which ``_patched`` replaces it."""
    kept: list[Tensor] = []

    def keep(value: Tensor) -> Tensor:
        """Keep the output, and change nothing."""
        kept.append(value.clone())
        return value

    _hooked_run(model, component, ids, keep)
    return kept[-1]


def _patched(
    model: Model, component: Component, ids: Tensor, source: Tensor, where: slice
) -> Tensor:
    """[sum] the model's top token at the end, with a component's output from another run."""

    def put(value: Tensor) -> Tensor:
        """Take the chosen positions from the other run."""
        changed = value.clone()
        changed[:, where] = source[:, where]
        return changed

    return _hooked_run(model, component, ids, put)


@torch.no_grad()
def _hooked_run(model: Model, component: Component, ids: Tensor, edit: Edit) -> Tensor:
    """[sum] the model's top token at the end of a run, with ``edit`` on a component's output."""
    name = component.kind if component.kind == "row" else f"{component.kind}_output"
    if component.kind == "head":
        edit = _of_head(component, model.stream.blocks[component.index].d_head, edit)
    with model.lock, ExitStack() as stack:
        for handle in hook_component(model, name, component.index, edit, len(ids)):
            stack.callback(handle.remove)
        logits = model.hf(input_ids=ids.to(model.device), use_cache=False).logits
    chosen: Tensor = logits[:, -1].argmax(-1).cpu()
    return chosen


def _of_head(component: Component, width: int, edit: Edit) -> Edit:
    """The edit of one head's part of the heads' mixed values."""
    start = (component.head or 0) * width

    def edit_part(values: Tensor) -> Tensor:
        """Change the head's columns."""
        changed = values.clone()
        changed[..., start : start + width] = edit(values[..., start : start + width])
        return changed

    return edit_part


def compute(
    model: Model, spec: PatchSpec, _memo: Memo | None = None, _longest: int | None = None
) -> PatchReport:
    """Which component passes a carry on."""
    own = operand_digits(model)
    return report(
        model,
        own or spec.digits,
        pairs=spec.pairs,
        seed=spec.seed,
        padded=own is not None,
        travels=spec.travels,
        components=affordable_components(model),
        positions=spec.positions,
    )
