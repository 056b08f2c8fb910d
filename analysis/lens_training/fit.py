"""Fit a learned lens by KL to the model's own output, on cached states; it can be resumed."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from analysis.contract import progress
from analysis.contract.results import Floats, Ints
from analysis.errors import SpecError, StoreError
from analysis.learned.translators import LearnedLens
from analysis.model.handle import Model
from analysis.model.readout import Readout
from analysis.tracing.capture import trace

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


@dataclass(frozen=True, slots=True)
class FitSpec:
    """How a lens is fitted.

    Attributes:
        rank: Of each translator; 0: full matrices.
        tokens: Training positions, at least.
        steps: Batches in all; the learning rate rises, then falls to 0 over them.
        batch: Positions a step.
        rows: Rows a step; each row comes up equally often.
        rate: Peak learning rate of Adam, in the translators' scaled coordinates.
        seed: Of the text, the start and the batches.
        every: Steps between checkpoints.
    """

    rank: int = 96
    tokens: int = 24_576
    steps: int = 3_000
    batch: int = 32
    rows: int = 3
    rate: float = 4e-3
    seed: int = 1
    every: int = 100

    def __post_init__(self) -> None:
        for name in ("tokens", "steps", "batch", "rows", "every"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name} must be 1 or more.", "Leave it out for the default.")
        if self.rank < 0 or self.rate <= 0.0:
            raise SpecError("Rank can't be negative, nor the rate 0.", "Leave them out.")


@dataclass
class Fit:
    """A fit under way.

    Attributes:
        spec: How it is fitted.
        lens: What is fitted.
        optimizer: Adam; a row that a step did not draw keeps its state.
        step: Steps done.
        history: At each checkpoint, the mean loss of each row drawn since the last (NaN: none).
    """

    spec: FitSpec
    lens: LearnedLens
    optimizer: torch.optim.Adam
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def start(spec: FitSpec, lens: LearnedLens) -> Fit:
    """A fit that has not begun."""
    parameters = list(lens.translators.parameters())
    return Fit(spec, lens, torch.optim.Adam(parameters, lr=spec.rate, betas=(0.9, 0.98)))


def fit(
    run: Fit,
    readout: Readout,
    states: Floats,
    keep: Callable[[Fit], None],
    say: Callable[[str], None],
) -> None:
    """Go on until all steps are done.

    Args:
        run: Changed in place.
        readout: The model's own.
        states: [row, token, d_model] of the training text.
        keep: Called at each checkpoint.
        say: Gets one line a checkpoint.

    Raises:
        CancelledError: If the caller's progress listener stops the work.
    """
    spec, losses = run.spec, []
    while run.step < spec.steps:
        losses.append(_one_step(run, readout, states))
        progress.step(run.step, spec.steps, "Fitting the lens")
        if run.step % spec.every == 0 or run.step == spec.steps:
            mean = float(np.mean(losses))
            losses.clear()
            run.history.append({"step": run.step, "kl": mean})
            keep(run)
            say(f"step {run.step:6d} of {spec.steps}  KL {mean:.4f} nats a token, rows drawn")


def rows_of(spec: FitSpec, step: int, count: int) -> list[int]:
    """The rows that a step draws: all of them in a new random order, again and again."""
    width = min(spec.rows, count)
    places = range(step * width, (step + 1) * width)
    orders = {
        turn: np.random.default_rng([spec.seed, 1, turn]).permutation(count)
        for turn in {place // count for place in places}
    }
    drawn = [int(orders[place // count][place % count]) for place in places]
    return list(dict.fromkeys(drawn))  # where two turns meet, one row may come up twice


def tokens_of(spec: FitSpec, step: int, count: int) -> Ints:
    """The positions that a step draws, ascending."""
    rng = np.random.default_rng([spec.seed, 2, step])
    return np.sort(rng.choice(count, size=min(spec.batch, count), replace=False))


def rate_at(spec: FitSpec, step: int) -> float:
    """The learning rate of a step: a rise over the first twentieth, then half a cosine to 0."""
    warm_up = max(spec.steps // 20, 1)
    if step < warm_up:
        return spec.rate * (step + 1) / warm_up
    return spec.rate * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (spec.steps - warm_up)))


def _one_step(run: Fit, readout: Readout, states: Floats) -> float:
    spec, count = run.spec, states.shape[0] - 1
    places = tokens_of(spec, run.step, states.shape[1])
    target, negative_entropy = _target(readout, torch.from_numpy(states[-1, places]))
    total, rows = 0.0, rows_of(spec, run.step, count)
    run.optimizer.zero_grad(set_to_none=True)
    for row in rows:
        logits = run.lens.logits(readout, torch.from_numpy(states[row, places]), row)
        loss = torch.nn.functional.cross_entropy(logits, target) + negative_entropy
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(run.lens.translators[row].parameters(), 1.0)
        total += float(loss.detach())
    for group in run.optimizer.param_groups:
        group["lr"] = rate_at(spec, run.step)
    run.optimizer.step()
    run.step += 1
    return total / len(rows)


@torch.no_grad()
def _target(readout: Readout, last: Tensor) -> tuple[Tensor, Tensor]:
    """The model's own distribution [n, vocab], and its mean negative entropy."""
    states = last.to(readout.device, readout.output_rows.dtype)
    log_probs = torch.log_softmax(readout.logits(states), -1)
    probs = log_probs.exp()
    return probs, (probs * log_probs.clamp_min_(-1e4)).sum(-1).mean()
