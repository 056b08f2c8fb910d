"""What an unfinished training has on disk: its checkpoint, and its texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from analysis.errors import SpecError
from analysis.learned.files import read, write
from analysis.learned.texts import Text
from analysis.learned.train import Fit


def save_fit(run: Fit, path: Path, job: Any) -> None:
    """Write a checkpoint: lens, Adam's state, step and history."""
    tensors = {f"lens.{name}": value for name, value in run.lens.translators.state_dict().items()}
    for name, parameter in run.lens.translators.named_parameters():
        for key, value in run.optimizer.state.get(parameter, {}).items():
            tensors[f"adam.{key}.{name}"] = value
    write(path, tensors, {"job": job, "step": run.step, "history": run.history}, "fit")


def resume_fit(run: Fit, path: Path, job: Any) -> None:
    """Bring a fresh fit to where a checkpoint of the same job stands.

    Raises:
        SpecError: If the checkpoint belongs to another job.
    """
    tensors, state = read(path, "fit")
    if state["job"] != job:
        raise SpecError(
            f"{path} belongs to a training with other options or another model.",
            "Give the same options, another --out, or remove its folder.",
        )
    run.step, run.history = state["step"], state["history"]
    own = {name[5:]: value for name, value in tensors.items() if name.startswith("lens.")}
    run.lens.translators.load_state_dict(own)
    for name, parameter in run.lens.translators.named_parameters():
        if f"adam.step.{name}" in tensors:
            run.optimizer.state[parameter] = {
                key: tensors[f"adam.{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")
            }


def save_text(text: Text, path: Path) -> None:
    """Write a text's tokens."""
    flat = [token for part in text.parts for token in part]
    tensors = {
        "ids": torch.tensor(flat),
        "lengths": torch.tensor([len(part) for part in text.parts]),
        "starts": torch.tensor(text.starts),
    }
    write(path, tensors, text.title, "text")


def load_text(path: Path) -> Text:
    """What ``save_text`` wrote."""
    tensors, title = read(path, "text")
    cut = torch.split(tensors["ids"], tensors["lengths"].tolist())
    parts = tuple(tuple(part.tolist()) for part in cut)
    return Text(title, parts, tuple(tensors["starts"].tolist()))
