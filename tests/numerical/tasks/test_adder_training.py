"""Training a toy adder: it learns, and an interruption changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import analysis
from analysis.contract import jobs
from analysis.errors import CancelledError, SpecError
from analysis.model.handle import Model
from analysis.tasks import adder, addition
from analysis.tasks.adder import Run, TrainSpec, evaluate, export, rate_at, table, train
from analysis.tasks.commands import add_to
from tests.support.command_line import run

SHORT = TrainSpec(
    digits=2, width=16, steps=24, batch=8, every=8, warm_up=4, perfect=0, validation=200
)
TOY = TrainSpec(
    digits=1, width=64, steps=500, batch=64, rate=3e-3, warm_up=30, every=100, perfect=1
)


@dataclass(frozen=True)
class Toy:
    """A trained toy, from memory and from disk."""

    run: Run
    model: Model


def quiet(text: str) -> None:
    """Print nothing."""


def weights(run: object) -> dict[str, torch.Tensor]:
    return dict(run.model.state_dict())  # type: ignore[attr-defined]


def stop_at(step: int) -> jobs.Listener:
    def listen(done: int, total: int, label: str) -> None:
        if done == step:
            raise CancelledError

    return listen


@pytest.mark.parametrize("stopped", [8, 13, 23])
def test_resumed_training_ends_at_the_same_weights(tmp_path: Path, stopped: int) -> None:
    whole = train(SHORT, tmp_path / "whole", quiet)
    with pytest.raises(CancelledError), jobs.listening(stop_at(stopped)):
        train(SHORT, tmp_path / "cut", quiet)
    resumed = train(SHORT, tmp_path / "cut", quiet)
    assert resumed.step == whole.step == 24
    assert all(torch.equal(weights(whole)[name], value) for name, value in weights(resumed).items())
    assert resumed.history == whole.history


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    one = train(SHORT, tmp_path / "one", quiet)
    other = train(replace(SHORT, seed=2), tmp_path / "other", quiet)
    assert not torch.equal(*(weights(run)["lm_head.weight"] for run in (one, other)))


def test_the_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    train(SHORT, tmp_path, quiet)
    with pytest.raises(SpecError, match="other options"):
        train(TrainSpec(digits=2, width=16), tmp_path, quiet)


def test_the_rate_rises_then_falls_to_a_hundredth() -> None:
    rates = [rate_at(SHORT, step) for step in range(SHORT.steps + 1)]
    assert rates[0] == pytest.approx(SHORT.rate / 4)
    assert max(rates) == rates[4] == pytest.approx(SHORT.rate)
    assert rates[-1] == pytest.approx(SHORT.rate / 100)
    assert rates[4:] == sorted(rates[4:], reverse=True)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """A model of one-digit sums: right on all training sums, not on all held-out ones."""
    folder = tmp_path_factory.mktemp("toy")
    run = train(TOY, folder, quiet)
    export(run, folder / "model")
    return Toy(run, analysis.load_model(str(folder / "model")))


@pytest.mark.full
def test_a_toy_learns_to_add_and_opens_as_a_model(toy: Toy) -> None:
    a, b = addition.sample_part(np.random.default_rng(0), 200, "train", 1)
    assert adder.exact(toy.run.model, a, b, 1).mean() > 0.97
    assert toy.model.check().passed
    assert not toy.model.info.tied_embeddings
    longer = toy.model.hf.transformer.wpe.weight
    assert longer.shape[0] == adder.POSITIONS
    assert not longer[adder.length_of(1) :].any()


@pytest.mark.full
def test_exact_accuracy_agrees_with_greedy_generation(toy: Toy) -> None:
    pairs = [
        addition.sample_part(np.random.default_rng(0), 12, part, 1) for part in ("train", "test")
    ]
    a, b = (np.concatenate(operands) for operands in zip(*pairs, strict=True))
    found = adder.exact(toy.model.hf, a, b, 1)
    for right, x, y in zip(found.tolist(), a.tolist(), b.tolist(), strict=True):
        asked, wanted = addition.prompt(x, y, 1), addition.answer(x, y, 1)
        written = toy.model.tokenizer.decode(analysis.generate(toy.model, asked, 3))
        assert right == (written == f"{asked}{wanted}<end>")
    assert found.any()


@pytest.mark.full
def test_evaluation_counts_every_sum_once(toy: Toy) -> None:
    found = evaluate(toy.run.model, 300, operand_digits=1)
    assert found.every.total == 300
    assert found.uniform.total == found.rich.total == 150
    assert sum(count.total for count in found.by_chain) == 300
    assert sum(count.right for count in found.by_chain) == found.every.right
    assert len(found.wrong) == min(20, 300 - found.every.right)
    assert table(found).count("\n") == 6  # head, rule, three groups, chains of 0 and 1


@pytest.mark.full
def test_the_command_trains_and_evaluates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "model")
    options = ("--steps", "3", "--width", "16", "--digits", "1")
    assert run(add_to, "tasks", "train-addition", str(tmp_path), *options) == 0
    assert run(add_to, "tasks", "evaluate-addition", "--model", folder, "--sums", "60") == 0
    said = capsys.readouterr().out
    assert "3 steps" in said
    assert "| all | 60 |" in said


def test_characters_are_tokens_and_unknown_ones_are_reported() -> None:
    tokenizer = adder.tokenizer(40)
    assert tokenizer("12+3=")["input_ids"] == [1, 2, 10, 3, 11]
    assert tokenizer(" 12 + 3 =\n")["input_ids"] == [1, 2, 10, 3, 11]
    assert tokenizer.decode([1, 2, 10, 3, 11, 12]) == "12+3=<end>"
    assert tokenizer("1a")["input_ids"] == [1, adder.VOCABULARY.index(adder.UNKNOWN)]
