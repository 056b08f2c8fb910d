"""Every lens request goes through the worker's engine and the codec, without a pass."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import codec
from analysis.contract import jobs
from analysis.contract.specs import cache_key
from analysis.errors import CancelledError
from analysis.lens.specs import ColourSpec, DisagreementSpec, LensSpec, PromotedSpec
from analysis.registry import TECHNIQUES, technique_for
from analysis.reports.specs import EmbeddingSpec, NormSpec, SimilaritySpec
from analysis.scale.app import decode_request, encode_request
from analysis.tracing.specs import RunSpec, TraceSpec
from analysis.trajectory.specs import EmergenceSpec, LargestStepSpec, StepsSpec
from analysis.worker.engine import Engine
from analysis.worker.messages import Limits, Request

COMPONENTS = [
    LensSpec(component="block_increment"),
    LensSpec(component="source_output", head=1, source=2),
]
ON_A_TRACE: list[Any] = [
    LensSpec(), *COMPONENTS,
    ColourSpec(), ColourSpec(COMPONENTS[1], ("cross_entropy",)),
    PromotedSpec("source_output", 1, 3, head=1, source=2), PromotedSpec("mlp_output", 0, 1),
    DisagreementSpec(), StepsSpec(), StepsSpec(2, (7, 8)), LargestStepSpec(), SimilaritySpec(),
]  # fmt: skip
ON_A_MODEL: list[Any] = [EmbeddingSpec(), EmbeddingSpec(None), NormSpec()]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(Limits())


@pytest.fixture(scope="module")
def ran(engine: Engine, tiny_llama_dir: Path) -> TraceSpec:
    run = RunSpec(str(tiny_llama_dir), token_ids=(5, 9, 33, 2, 8))
    engine.perform(Request("run", run.model, "f", (run,)))
    return TraceSpec(run.model, run.token_ids)


def same(one: Any, other: Any) -> bool:
    """Whether two results are equal, including arrays and NaN."""
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype == "f4")
    if hasattr(one, "__dataclass_fields__"):
        return all(
            same(getattr(one, field.name), getattr(other, field.name)) for field in fields(one)
        )
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize("spec", ON_A_TRACE, ids=lambda spec: type(spec).__name__)
def test_a_grid_of_a_known_run_needs_no_forward_pass(
    engine: Engine, ran: TraceSpec, spec: Any
) -> None:
    technique = technique_for(spec)
    answer = engine.perform(Request(technique.name, ran.model, "f", (ran, spec)))
    assert answer.forwards == 0
    found = codec.decode(answer.data)
    assert isinstance(found, technique.result)
    assert same(codec.decode(codec.encode(found)), found)


LONG = [
    LensSpec(), ColourSpec(quantities=("rank_change",)), ColourSpec(quantities=("kl",)),
    DisagreementSpec(), LargestStepSpec(), SimilaritySpec(), EmergenceSpec(causal=True),
]  # fmt: skip


@pytest.mark.parametrize("spec", LONG, ids=lambda spec: type(spec).__name__)
def test_a_cancel_stops_the_computation(engine: Engine, ran: TraceSpec, spec: Any) -> None:
    """The work ends at the first reported step."""
    heard: list[tuple[int, int]] = []

    def cancel(done: int, total: int, label: str) -> None:
        heard.append((done, total))
        raise CancelledError

    with pytest.raises(CancelledError), jobs.listening(cancel):
        engine.perform(Request(technique_for(spec).name, ran.model, "f", (ran, spec)))
    assert len(heard) == 1
    assert 0 < heard[0][0] <= heard[0][1]


def test_an_embedding_report_can_be_cancelled(engine: Engine, ran: TraceSpec) -> None:
    def cancel(done: int, total: int, label: str) -> None:
        raise CancelledError

    with pytest.raises(CancelledError), jobs.listening(cancel):
        engine.perform(Request("embedding_report", ran.model, "f", (EmbeddingSpec(),)))


@pytest.mark.parametrize("spec", ON_A_MODEL, ids=lambda spec: type(spec).__name__)
def test_a_report_needs_no_forward_pass(engine: Engine, ran: TraceSpec, spec: Any) -> None:
    technique = technique_for(spec)
    answer = engine.perform(Request(technique.name, ran.model, "f", (spec,)))
    assert answer.forwards == 0
    assert isinstance(codec.decode(answer.data), technique.result)


def test_every_technique_has_a_computation_of_its_own() -> None:
    assert all(callable(technique.load()) for technique in TECHNIQUES)
    assert len({technique.compute for technique in TECHNIQUES}) == len(TECHNIQUES)
    assert len({technique.name for technique in TECHNIQUES}) == len(TECHNIQUES)
    assert len({technique.spec for technique in TECHNIQUES}) == len(TECHNIQUES)


def test_every_request_has_its_own_key() -> None:
    every = [*ON_A_TRACE, *ON_A_MODEL]
    assert len({cache_key("f", spec) for spec in every}) == len(every)
    assert all(json.dumps(asdict(spec)) for spec in every)
    assert len(set(every)) == len(every)


def test_a_remote_worker_returns_the_same_result() -> None:
    for spec in (*ON_A_TRACE, *ON_A_MODEL):
        request = Request("kind", "model", "f", (TraceSpec("model", (1, 2)), spec))
        assert decode_request(json.loads(json.dumps(encode_request(request)))) == request


def test_options_without_effect_do_not_change_the_key() -> None:
    plain = cache_key("f", ColourSpec(LensSpec(), ("kl", "norm")))
    assert cache_key("f", ColourSpec(LensSpec(k=9, target=(4,)), ("norm", "kl"))) == plain
    assert cache_key("f", ColourSpec(LensSpec(decoder="input"), ("kl", "norm"))) != plain
