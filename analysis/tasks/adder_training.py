"""Train a small decoder to add, and measure how often it is right."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

from analysis.contract import progress
from analysis.errors import SpecError
from analysis.tasks import adder, addition

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True, slots=True)
class TrainSpec:
    """What is trained and how.

    Attributes:
        digits: Of each operand.
        width: d_model.
        seed: Of the weights and the data.
        steps: At most; the learning rate falls to a hundredth of its peak over them.
        batch: Sums a step.
        rate: Peak learning rate.
        warm_up: Steps over which it rises.
        every: Steps between evaluations and checkpoints.
        perfect: Evaluations in a row without a mistake after which training stops; 0: never.
        validation: Sums of an evaluation.
    """

    digits: int = addition.DIGITS
    width: int = 128
    seed: int = 1
    steps: int = 12000
    batch: int = 128
    rate: float = 1.5e-3
    warm_up: int = 300
    every: int = 250
    perfect: int = 4
    validation: int = 8192


@dataclass
class Run:
    """A training run under way: model, optimizer, and how it went."""

    spec: TrainSpec
    model: Any
    optimizer: torch.optim.AdamW
    step: int
    history: list[dict[str, float]]

    @property
    def finished(self) -> bool:
        """Whether all steps are done or the last evaluations were without a mistake."""
        last = self.history[-self.spec.perfect :] if self.spec.perfect else []
        perfect = [entry["accuracy"] == 1.0 for entry in last]
        done = bool(self.spec.perfect) and len(perfect) == self.spec.perfect and all(perfect)
        return done or self.step >= self.spec.steps


def train(spec: TrainSpec, folder: Path, say: Callable[[str], None] = print) -> Run:
    """Train, or go on where ``folder`` has a checkpoint of the same spec.

    Raises:
        SpecError: If the folder holds a checkpoint of another spec.
        CancelledError: If the caller's progress listener stops the work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = _resume(spec, folder) or _start(spec)
    while not run.finished:
        loss = _one_step(run)
        progress.step(run.step, spec.steps, "Training on sums")
        if run.step % spec.every == 0 or run.step == spec.steps:
            run.history.append({"step": run.step, "loss": loss, "accuracy": _accuracy(run)})
            save(run, folder)
            say(
                f"step {run.step:6d}  loss {loss:.5f}  "
                f"right {100 * run.history[-1]['accuracy']:.3f} % of {spec.validation} "
                "validation sums"
            )
    return run


def rate_at(spec: TrainSpec, step: int) -> float:
    """The learning rate of a step: a linear rise, then half a cosine down to a hundredth."""
    if step < spec.warm_up:
        return spec.rate * (step + 1) / spec.warm_up
    left = (step - spec.warm_up) / max(spec.steps - spec.warm_up, 1)
    return spec.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * left)))


def _start(spec: TrainSpec) -> Run:
    model = adder.new_model(spec.digits, spec.width, spec.seed)
    return Run(spec, model, _optimizer(model, spec), 0, [])


def _optimizer(model: Any, spec: TrainSpec) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=spec.rate, betas=(0.9, 0.98), weight_decay=0.01)


def _one_step(run: Run) -> float:
    """One batch; the loss, in nats a token, over answer and end only."""
    spec, model = run.spec, run.model
    rng = np.random.default_rng([spec.seed, run.step])
    a, b = addition.draw(rng, spec.batch, "train", spec.digits)
    ids, asked = adder.sequences(a, b, spec.digits), 2 * spec.digits + 2
    model.train()
    states = model.transformer(input_ids=ids[:, :-1]).last_hidden_state
    logits = model.lm_head(states[:, asked - 1 :])
    loss = cross_entropy(logits.flatten(0, 1), ids[:, asked:].flatten())
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for group in run.optimizer.param_groups:
        group["lr"] = rate_at(spec, run.step)
    run.optimizer.step()
    run.step += 1
    return float(loss.detach())


def _accuracy(run: Run) -> float:
    """Share of validation sums, half of them rich in chains, that come out exactly."""
    rng = np.random.default_rng([run.spec.seed, 0, 1])
    a, b = addition.draw(rng, run.spec.validation, "validation", run.spec.digits)
    run.model.eval()
    return float(adder.exact(run.model, a, b, run.spec.digits).mean())


# -- the checkpoint ------------------------------------------------------------------------


def save(run: Run, folder: Path) -> None:
    """Write weights, optimizer state and history as one file, whole or not at all."""
    tensors = {f"model.{name}": value for name, value in run.model.state_dict().items()}
    for name, parameter in run.model.named_parameters():
        for key, value in run.optimizer.state[parameter].items():
            tensors[f"adam.{key}.{name}"] = value
    tensors = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
    state = {"spec": asdict(run.spec), "step": run.step, "history": run.history}
    half = folder / f".{CHECKPOINT}.part"
    save_file(tensors, half, metadata={"state": json.dumps(state)})
    half.replace(folder / CHECKPOINT)


def _resume(spec: TrainSpec, folder: Path) -> Run | None:
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    with safe_open(path, "pt") as opened:
        state = json.loads(opened.metadata()["state"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    if TrainSpec(**state["spec"]) != spec:
        raise SpecError(
            f"{path} belongs to a run with other options: {state['spec']}.",
            "Use the same options, or another folder.",
        )
    run = _start(spec)
    run.step, run.history = state["step"], state["history"]
    run.model.load_state_dict(_under("model.", tensors))
    for name, parameter in run.model.named_parameters():
        run.optimizer.state[parameter] = {
            key: tensors[f"adam.{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")
        }
    return run


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def export(run: Run, folder: Path) -> None:
    """Write model and tokenizer as a folder that ``analysis.load_model`` opens."""
    model = adder.lengthened(run.model, run.spec.digits)
    model.eval().save_pretrained(folder)
    adder.tokenizer(model.config.n_positions).save_pretrained(folder)


SUMS = 200_000
_BATCH = 4096


@dataclass(frozen=True, slots=True)
class Count:
    """How many of some sums were right."""

    right: int
    total: int

    @property
    def share(self) -> float:
        """Right ones, 0 to 1; NaN where there were none."""
        return self.right / self.total if self.total else float("nan")


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Exact answers, every digit and the end, under greedy decoding.

    Attributes:
        every: All sums.
        uniform: Those with uniform operands.
        rich: Those rich in long carry chains.
        by_chain: Index: columns that the farthest-travelling carry comes out of, 0 to digits.
        wrong: Up to 20 of the pairs that came out wrong.
    """

    every: Count
    uniform: Count
    rich: Count
    by_chain: tuple[Count, ...]
    wrong: tuple[tuple[int, int], ...]


def evaluate(
    model: Any, count: int = SUMS, seed: int = 0, operand_digits: int = addition.DIGITS
) -> Accuracy:
    """Ask for ``count`` distinct-by-seed held-out sums, the second half rich in carry chains.

    Args:
        model: The transformers model.
        count: Sums in all.
        seed: Of the sums.
        operand_digits: Digits of each operand.

    Raises:
        CancelledError: If the caller's progress listener stops the work.
    """
    half = count // 2
    plain = addition.draw(np.random.default_rng([seed, 1]), half, "test", operand_digits, 0.0)
    rich = addition.draw(np.random.default_rng([seed, 2]), count - half, "test", operand_digits, 1)
    a, b = (np.concatenate(pair) for pair in zip(plain, rich, strict=True))
    right = []
    for start in range(0, count, _BATCH):
        stop = min(start + _BATCH, count)
        right.append(adder.exact(model, a[start:stop], b[start:stop], operand_digits))
        progress.step(stop, count, "Adding held-out sums")
    return _counted(np.concatenate(right), a, b, half, operand_digits)


def _counted(right: Any, a: Any, b: Any, half: int, operand_digits: int) -> Accuracy:
    chain = addition.longest_chain(a, b, operand_digits)
    groups = [right[chain == length] for length in range(operand_digits + 1)]
    wrong = np.flatnonzero(~right)[:20]
    return Accuracy(
        _count(right),
        _count(right[:half]),
        _count(right[half:]),
        tuple(_count(group) for group in groups),
        tuple((int(a[place]), int(b[place])) for place in wrong),
    )


def _count(right: Any) -> Count:
    return Count(int(right.sum()), len(right))


def table(found: Accuracy) -> str:
    """The figures as a Markdown table."""
    rows = [
        ("all", found.every),
        ("uniform operands", found.uniform),
        ("rich in carry chains", found.rich),
        *((f"longest chain {length}", count) for length, count in enumerate(found.by_chain)),
    ]
    lines = [f"| {name} | {c.total:,} | {c.total - c.right} | {_percent(c)} |" for name, c in rows]
    return "\n".join(["| sums | asked | wrong | right |", "|---|---:|---:|---:|", *lines])


def _percent(count: Count) -> str:
    return f"{100 * count.share:.4f} %" if count.total else "-"
