"""Small trainings of a learned lens that tests share."""

from __future__ import annotations

from pathlib import Path

from analysis.lens_training.fit import FitSpec
from analysis.lens_training.training import Session
from analysis.model.handle import Model

SPEC = FitSpec(rank=6, tokens=1500, steps=240, batch=48, rows=2, rate=2e-2, seed=1, every=60)
SHORT = FitSpec(rank=3, tokens=300, steps=24, batch=16, rows=2, rate=1e-2, seed=3, every=8)


def ignore(text: str) -> None:
    """Print nothing."""


def session(model: Model, out: Path, spec: FitSpec = SHORT, source: Path | None = None) -> Session:
    """A training that evaluates 200 positions."""
    return Session(model, spec, out, source, "the command", 200)
