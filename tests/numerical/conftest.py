"""The models on which every identity is tested."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import analysis
from analysis.model.handle import Model
from analysis.tracing.capture import Trace
from tests.support import built, tiny


@dataclass(frozen=True)
class Case:
    """A model and a trace of it."""

    model: Model
    trace: Trace


@pytest.fixture(scope="session")
def gpt2() -> Case:
    model = built.understood(tiny.tiny_gpt2(), "gpt2")
    return Case(model, analysis.trace(model, built.ids(model, 9)))


@pytest.fixture(scope="session")
def llama() -> Case:
    model = built.understood(tiny.tiny_llama(), "llama")
    return Case(model, analysis.trace(model, built.ids(model, 9)))


@pytest.fixture(scope="session")
def smollm(default_model_dir: Path) -> Case:
    model = analysis.load_model("smollm2-135m-instruct")
    return Case(model, analysis.trace(model, "The capital of France is"))


@pytest.fixture(scope="session")
def adder() -> Any:
    return analysis.load_model("addition-5digit")


@pytest.fixture(params=["gpt2", "llama"])
def small(request: pytest.FixtureRequest) -> Case:
    case: Case = request.getfixturevalue(request.param)
    return case


@pytest.fixture(params=["gpt2", "llama", pytest.param("smollm", marks=pytest.mark.real)])
def case(request: pytest.FixtureRequest) -> Case:
    chosen: Case = request.getfixturevalue(request.param)
    return chosen
