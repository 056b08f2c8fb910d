"""Which component hands a carry over: take it from a sum with a carry into one without.

A pair agrees in every digit from the column upwards and differs below it, so that a carry
enters the column in the donor only. The column's digits never add up to 9, so the carry out of
it is the same in both and no other written digit changes. If a component carries the carry,
putting the donor's output in its place makes the written digit one more. The control's donor
differs below the column too, but no carry comes of it.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.contract import progress
from analysis.contract.results import Floats, Ints
from analysis.errors import SpecError
from analysis.model.handle import Model
from analysis.model.module_io import batched, hidden_input, hidden_output, with_hidden_output
from analysis.store.memo import Memo
from analysis.tasks import sum_table
from analysis.tasks.batch import fitting
from analysis.tasks.components import Component, affordable, all_of
from analysis.tasks.specs import PatchSpec
from analysis.tasks.sum_results import PatchReport
from analysis.tasks.sum_table import Table, table

EVERYWHERE = "everywhere"
#: Of fewer pairs that a model has right nothing can be said, so they are not patched.
FEWEST_PAIRS = 5


def report(
    model: Model,
    digits: int,
    *,
    pairs: int = 64,
    seed: int = 0,
    padded: bool = True,
    travels: bool = False,
    wanted: tuple[Component, ...] | None = None,
    columns: tuple[int, ...] | None = None,
    positions: str = "all",
) -> PatchReport:
    """Patch every component at every position, and at all of them, for every column.

    Args:
        model: One that splits numbers into digits.
        digits: Of each operand.
        pairs: Sums a column; those that the model gets wrong are left out.
        seed: Of the sums.
        padded: Sums as the trained adder reads them.
        travels: Whether the carry comes through a column that adds up to 9 just below; else it
            is made there.
        wanted: Which components; all unless given.
        columns: Into which the carry goes; all that have enough columns
            below and a digit of their own unless given.
        positions: "all", or "written": only at the state that writes the digit, and at all
            states together; the others stay NaN.

    Raises:
        CancelledError: If the caller's progress listener stops the work.
    """
    wanted = all_of(model) if wanted is None else wanted
    columns = tuple(range(1 + travels, digits)) if columns is None else columns
    rng = np.random.default_rng([seed, 13])
    trials = [_Trial(model, rng, pairs, digits, column, padded, travels) for column in columns]
    return _told(trials, wanted, columns, pairs, _patch_all(trials, wanted, positions))


def _told(
    trials: list[_Trial], wanted: tuple[Component, ...], columns: tuple[int, ...], asked: int,
    shares: tuple[Floats, Floats],
) -> PatchReport:  # fmt: skip
    counts, states = ([getattr(t, name) for t in trials] for name in ("count", "position"))
    receivers, donors, harmless = (tuple(t.texts[n] for t in trials) for n in range(3))
    return PatchReport(
        tuple(component.name for component in wanted), (*trials[0].places, EVERYWHERE),
        np.array(columns, np.int64), *shares, np.array(counts, np.int64), asked,
        np.array(states, np.int64), receivers, donors, harmless, trials[0].length,
    )  # fmt: skip


def _patch_all(
    trials: list[_Trial], wanted: tuple[Component, ...], positions: str
) -> tuple[Floats, Floats]:
    """[column, component, place] effects of the donors with a carry and of those without."""
    shape = (len(trials), len(wanted), len(trials[0].places) + 1)
    effect, control = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    for number, component in enumerate(wanted):
        for row, trial in enumerate(trials):
            effect[row, number] = trial.changed(component, trial.donor, positions)
            control[row, number] = trial.changed(component, trial.harmless, positions)
        progress.step(number + 1, len(wanted), "Patching")
    return effect, control


def pairs_for(
    rng: np.random.Generator, count: int, digits: int, column: int, padded: bool, travels: bool
) -> Ints:
    """[3, 2, pair] operands of receivers, of donors with a carry into ``column``, and without.

    ``travels``: the column below adds up to 9 in all of them and hands the donor's carry on;
    else the carry is made there.

    Raises:
        SpecError: If a carry is to travel into a column with only one below it.
    """
    if travels and column < 2:
        raise SpecError("A carry needs two columns below to travel.", "Use column 2 or more.")
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
    """Whether operands have no leading zeros and their sum one digit more than they."""
    leading = bool((high >= 10 ** (digits - column - 1)).all())
    return leading and int(high.sum()) >= 10 ** (digits - column)


class _Trial:
    """The pairs of one column, and their states."""

    def __init__(
        self, model: Model, rng: Any, pairs: int, digits: int, column: int, padded: bool,
        travels: bool,
    ) -> None:  # fmt: skip
        self.model = model
        receiver, donors, harmless = (
            table(model, a, b, digits, padded=padded)
            for a, b in pairs_for(rng, pairs, digits, column, padded, travels)
        )
        self.places, self.length = receiver.places, receiver.length
        self.position = receiver.answers[column] - 1
        right = _next_digit(model, _ids(receiver), self.position)
        own = _ids(receiver)[:, self.position + 1]
        wanted = _ids(donors)[:, self.position + 1]
        said = _next_digit(model, _ids(donors), self.position)
        knows = (right == own) & (said == wanted)
        kept = np.flatnonzero(knows.numpy())
        self.count, self.wanted = len(kept), wanted[kept]
        self.texts = [t.texts[kept[0]] if len(kept) else "" for t in (receiver, donors, harmless)]
        # Only what the model reads before it writes the digit.
        self.receiver = _ids(receiver)[kept, : self.position + 1]
        self.donor = _ids(donors)[kept, : self.position + 1]
        self.harmless = _ids(harmless)[kept, : self.position + 1]

    def changed(self, component: Component, donor: Tensor, positions: str) -> Any:
        """[place + 1] share of pairs whose digit becomes the donor's, patched at each place."""
        shares = np.full(len(self.places) + 1, np.nan, np.float32)
        if self.count < FEWEST_PAIRS:
            return shares
        own, kept = (_outputs(self.model, component, ids) for ids in (self.receiver, donor))
        first = 0 if positions == "all" else self.position
        for place in (*range(first, self.position + 1), len(self.places)):
            progress.pause()
            where = slice(None) if place == len(self.places) else slice(place, place + 1)
            if torch.equal(own[:, where], kept[:, where]):
                shares[place] = 0.0  # the same output in both runs changes nothing
                continue
            said = _patched(self.model, component, self.receiver, kept, where)
            shares[place] = float((said == self.wanted).float().mean())
        return shares


def _ids(sums: Table) -> Tensor:
    return torch.tensor([list(one.token_ids) for one in sums.encoded])


@torch.no_grad()
def _next_digit(model: Model, ids: Tensor, position: int) -> Tensor:
    """[sum] the model's choice after ``position``, a few sums at a time."""
    chosen = []
    for part in torch.split(ids[:, : position + 1], fitting(model, position + 1)):
        with model.lock:
            logits = model.hf(input_ids=part.to(model.device), use_cache=False).logits
        chosen.append(logits[:, -1].argmax(-1).cpu())
        progress.pause()
    return torch.cat(chosen)


def _outputs(model: Model, component: Component, ids: Tensor) -> Tensor:
    """What a component gives in a run, at the spot where ``_patched`` puts it."""
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
    """[sum] the model's choice at the end with a component's output taken from another run."""

    def put(value: Tensor) -> Tensor:
        """Take the chosen positions from the other run."""
        changed = value.clone()
        changed[:, where] = source[:, where]
        return changed

    return _hooked_run(model, component, ids, put)


@torch.no_grad()
def _hooked_run(model: Model, component: Component, ids: Tensor, edit: Any) -> Tensor:
    """Run with ``edit`` on a component's output; the model's choice after the last position."""
    with model.lock, ExitStack() as stack:
        handle = _hook(model, component, len(ids), edit)
        stack.callback(handle.remove)
        logits = model.hf(input_ids=ids.to(model.device), use_cache=False).logits
    chosen: Tensor = logits[:, -1].argmax(-1).cpu()
    return chosen


def _hook(model: Model, component: Component, size: int, edit: Any) -> Any:
    blocks = model.stream.blocks
    if component.kind == "row" and component.index == 0:
        return blocks[0].module.register_forward_pre_hook(
            _before(edit, slice(None), size), with_kwargs=True
        )
    if component.kind == "row":
        return blocks[component.index - 1].module.register_forward_hook(_after(edit, size))
    block = blocks[component.index]
    if component.kind == "attention":
        return block.attention_writer.register_forward_hook(_after(edit, size))
    if component.kind == "mlp":
        return block.mlp_writer.register_forward_hook(_after(edit, size))
    assert block.projection is not None  # noqa: S101 - all_of lists heads only where there is one
    start = (component.head or 0) * block.d_head
    part = slice(start, start + block.d_head)
    return block.projection.register_forward_pre_hook(_before(edit, part, size), with_kwargs=True)


def _after(edit: Any, size: int) -> Any:
    def hook(module: Any, args: Any, output: Any) -> Any:
        """Edit what a module gave, one prompt a row."""
        states = hidden_output(output)
        return with_hidden_output(output, edit(batched(states, size)).reshape(states.shape))

    return hook


def _before(edit: Any, part: slice, size: int) -> Any:
    def hook(module: Any, args: Any, kwargs: Any) -> Any:
        """Edit the chosen columns of what a module gets, one prompt a row."""
        state = hidden_input(args, kwargs)
        assert state is not None  # noqa: S101 - a block without hidden states was refused at load
        changed = batched(state, size).clone()
        changed[..., part] = edit(changed[..., part])
        changed = changed.reshape(state.shape)
        if args:
            return (changed, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": changed}

    return hook


def compute(
    model: Model, spec: PatchSpec, memo: Memo | None = None, longest: int | None = None
) -> PatchReport:
    """Which component hands a carry over."""
    own = sum_table.operand_digits(model)
    return report(
        model,
        own or spec.digits,
        pairs=spec.pairs,
        seed=spec.seed,
        padded=own is not None,
        travels=spec.travels,
        wanted=affordable(model),
        positions=spec.positions,
    )
