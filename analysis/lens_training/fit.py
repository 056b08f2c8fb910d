"""Fit a learned lens by its KL to the model's own output, on cached states; can be resumed."""

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

from analysis.contract import jobs
from analysis.contract.specs import Floats, Ints
from analysis.errors import SpecError, StoreError
from analysis.learned.translators import LearnedLens
from analysis.model.handle import Model
from analysis.model.readout import Readout
from analysis.tracing.capture import trace

#: From the median of |x| to a standard deviation: one over the normal's third quartile.
_MEDIAN_TO_DEVIATION = 1.4826
_SMALLEST_SCALE = 1e-6
#: Number of tokens whose states set the scales.
_SCALE_TOKENS = 4096


def size_of(texts: Sequence[Sequence[int]]) -> int:
    """Number of tokens of all texts."""
    return sum(len(text) for text in texts)


def cached_states(model: Model, texts: Sequence[Sequence[int]], path: Path) -> Floats:
    """[row, token, d_model] states of every token, all texts one after the other, from a file.

    The file is written atomically, so a killed run leaves no incomplete one.

    Raises:
        StoreError: If there is not enough disk space.
    """
    shape = (model.info.layers + 1, size_of(texts), model.info.d_model)
    if not path.is_file():
        partial = path.with_suffix(".part")
        target = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape)
        _reserve(partial)
        _fill(model, texts, target)
        target.flush()
        del target
        partial.replace(path)
    found: Floats = np.load(path, mmap_mode="r", allow_pickle=False)
    return found


def _reserve(path: Path) -> None:
    """Allocate the whole file now: running out of disk space later would kill the process."""
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
            "Free some space and resume with --resume, or use fewer --tokens.",
        ) from error


def _fill(model: Model, texts: Sequence[Sequence[int]], target: Floats) -> None:
    start = 0
    for number, text in enumerate(texts):
        target[:, start : start + len(text)] = trace(model, text).resid
        start += len(text)
        jobs.step(number + 1, len(texts), "States of the text")


def scales(states: Floats) -> tuple[torch.Tensor, torch.Tensor]:
    """The typical size of the states of each row before the last.

    Medians are used because a few positions have coordinates a thousand times larger.

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
    """The options of a fit.

    Attributes:
        rank: Rank of each translator; 0: full matrices.
        tokens: Training positions, at least.
        steps: Number of batches; the learning rate rises, then falls to 0 over them.
        batch: Positions in each step.
        rows: Rows in each step; each row is used equally often.
        rate: Peak learning rate of Adam, in the translators' scaled coordinates.
        seed: The seed of text, weights and batches.
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
            raise SpecError(
                "The rank can't be negative, and the rate must be above 0.",
                "Leave them out for the defaults.",
            )


@dataclass
class Fit:
    """The state of a fit.

    Attributes:
        spec: Its options.
        lens: The lens.
        optimizer: Adam; a row that a step does not use keeps its state.
        step: Number of steps done.
        history: At each checkpoint, its step and the mean KL since the last one.
    """

    spec: FitSpec
    lens: LearnedLens
    optimizer: torch.optim.Adam
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def start(spec: FitSpec, lens: LearnedLens) -> Fit:
    """A fit at step 0."""
    parameters = list(lens.translators.parameters())
    return Fit(spec, lens, torch.optim.Adam(parameters, lr=spec.rate, betas=(0.9, 0.98)))


def fit(
    run: Fit,
    readout: Readout,
    states: Floats,
    save: Callable[[Fit], None],
    report: Callable[[str], None],
) -> None:
    """Run the remaining steps.

    Args:
        run: Changed in place.
        readout: The model's readout.
        states: [row, token, d_model] of the training text.
        save: Called at each checkpoint.
        report: Gets one line of text at each checkpoint.

    Raises:
        CancelledError: If the caller's progress listener stops the work.
    """
    spec, losses = run.spec, []
    while run.step < spec.steps:
        losses.append(_one_step(run, readout, states))
        jobs.step(run.step, spec.steps, "Fitting the lens")
        if run.step % spec.every == 0 or run.step == spec.steps:
            mean = float(np.mean(losses))
            losses.clear()
            run.history.append({"step": run.step, "kl": mean})
            save(run)
            report(f"step {run.step:6d} of {spec.steps}  KL {mean:.4f} nats per token")


def rows_of(spec: FitSpec, step: int, count: int) -> list[int]:
    """The rows of a step: all rows in turn, each time in a new random order."""
    width = min(spec.rows, count)
    places = range(step * width, (step + 1) * width)
    orders = {
        turn: np.random.default_rng([spec.seed, 1, turn]).permutation(count)
        for turn in {place // count for place in places}
    }
    drawn = [int(orders[place // count][place % count]) for place in places]
    return list(dict.fromkeys(drawn))  # a row can repeat where two turns meet


def tokens_of(spec: FitSpec, step: int, count: int) -> Ints:
    """The positions of a step, ascending."""
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
