"""The facade: memo before queue, limits before work, no torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import codec
from analysis.contract.jobs import Job
from analysis.contract.specs import InfoSpec, cache_key
from analysis.errors import AnalysisError, CancelledError, PromptError, SpecError, UnknownModelError
from analysis.experiments.specs import PromptSpec
from analysis.flow_graph.specs import FlowSpec
from analysis.lens.specs import LensSpec
from analysis.registry import TECHNIQUES
from analysis.reports.specs import EmbeddingSpec, NormReport, NormSpec
from analysis.service import Service
from analysis.tracing.specs import RunSpec, TraceSpec
from analysis.worker.messages import Limits, ServiceSettings
from tests.support import fake_work
from tests.support.example_specs import example_spec
from tests.support.fake_service import FakeService
from tests.support.repository import ROOT

SPEC = RunSpec("fake", "echo x")


def fingerprint(model: str, dtype: str | None) -> str:
    if model == "unknown":
        raise UnknownModelError("No model is called 'unknown'.", "Pick another.")
    return f"{model}-{dtype}"


@pytest.fixture
def settings(tmp_path: Path) -> ServiceSettings:
    return ServiceSettings(cache_dir=tmp_path, function="tests.support.fake_work:perform")


@pytest.fixture
def service(settings: ServiceSettings) -> Iterator[Service]:
    with Service(settings, fingerprint) as made:
        yield made


def test_the_service_is_imported_and_made_without_torch(tmp_path: Path) -> None:
    script = (
        "import sys, dash_app.jobs.job_and_draw; from pathlib import Path;"
        "from analysis.service import Service, ServiceSettings;"
        f"Service(ServiceSettings(cache_dir=Path({str(tmp_path)!r}))).close();"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_a_second_identical_request_computes_nothing(service: Service) -> None:
    first = service.ask(SPEC.model, SPEC)
    assert (service.status().forwards, service.status().computed) == (1, 1)
    assert codec.encode(service.ask(SPEC.model, SPEC)) == codec.encode(first)
    assert (service.status().forwards, service.status().computed) == (1, 1)


def test_after_a_restart_the_memo_answers_without_a_worker(settings: ServiceSettings) -> None:
    with Service(settings, fingerprint) as before:
        before.ask(SPEC.model, SPEC)
    idle = Service(settings, fingerprint)
    assert idle.ask(SPEC.model, SPEC).tokens[0].text == "echo x"
    assert idle.status().worker_pid is None
    idle.close()


def test_a_second_model_is_one_on_offer_and_part_of_the_key(
    service: Service, settings: ServiceSettings
) -> None:
    spec = PromptSpec("fake", "a", other="unknown")
    for call in (service.ask, service.peek):
        with pytest.raises(UnknownModelError, match=r"^Model B can't be used\. No model is called"):
            call("fake", spec)
    changed = Service(settings, lambda name, dtype: f"{name}-{dtype}-2" if name == "b" else name)
    keys = [made._key("fake", (PromptSpec("fake", "a", other="b"),)) for made in (service, changed)]
    plain = [made._key("b", (InfoSpec(),)) for made in (service, changed)]
    assert len({*keys, *plain}) == 4
    changed.close()


def test_peek_finds_what_is_there_and_computes_nothing(service: Service) -> None:
    assert service.peek(SPEC.model, SPEC) is None
    assert service.peek("fake", InfoSpec()) is None
    assert service.peek(TraceSpec("fake", (1,)), LensSpec()) is None
    service.ask(SPEC.model, SPEC)
    found = service.peek(SPEC.model, SPEC)
    assert found is not None
    assert found.tokens[0].text == "echo x"
    assert service.status().computed == 1


def test_every_technique_has_its_own_memo_entry(service: Service) -> None:
    """A spec is looked up under its own key, and only as a result of its own type."""
    trace, subjects = TraceSpec("fake", (1, 2)), ("trace", "model")
    wrong = codec.encode(NormReport(None, np.ones(2, np.float32), np.zeros(2, np.float32), ()))
    for technique in TECHNIQUES:
        if technique.subject not in subjects or technique.spec is NormSpec:
            continue
        spec: Any = example_spec(technique.spec)
        subject = trace if technique.subject == "trace" else "fake"
        specs = (trace, spec) if technique.subject == "trace" else (spec,)
        key = cache_key(fingerprint("fake", None), *specs)
        assert service.peek(subject, spec) is None
        service._memo.put(key, wrong)
        assert service.peek(subject, spec) is None  # a result of another type is not used
        assert service._memo.get(key) is None


def test_a_spec_must_fit_its_subject(service: Service) -> None:
    trace = TraceSpec("fake", (1, 2))
    for subject, spec in ((trace, SPEC), ("fake", LensSpec()), (trace, NormSpec())):
        with pytest.raises(SpecError, match="needs a"):
            service.ask(subject, spec)
    with pytest.raises(SpecError, match="names another model"):
        service.ask("other", SPEC)
    with pytest.raises(SpecError, match="no technique"):
        service.peek(trace, trace)


def test_a_memoised_result_starts_no_worker(settings: ServiceSettings) -> None:
    idle = Service(settings, fingerprint)
    trace, spec = TraceSpec("fake", (1, 2)), LensSpec()
    grid = FakeService().decode(trace, spec)
    idle._memo.put(cache_key(fingerprint("fake", None), trace, spec), codec.encode(grid))
    for found in (idle.ask(trace, spec), idle.peek(trace, spec)):
        assert codec.encode(found) == codec.encode(grid)
    report = FakeService().ask("fake", EmbeddingSpec())
    key = cache_key(fingerprint("fake", None), EmbeddingSpec())
    idle._memo.put(key, codec.encode(report))
    assert idle.ask("fake", EmbeddingSpec()).sentence == report.sentence
    assert idle.status().worker_pid is None
    idle.close()


def test_other_weights_dtypes_and_options_are_other_entries(
    service: Service, settings: ServiceSettings
) -> None:
    service.ask(SPEC.model, SPEC)
    assert service.peek("other", replace(SPEC, model="other")) is None
    assert service.peek(SPEC.model, replace(SPEC, new_tokens=1)) is None
    half = Service(replace(settings, limits=Limits(dtype="bfloat16")), fingerprint)
    assert half.peek(SPEC.model, SPEC) is None
    half.close()


def test_an_entry_of_another_type_is_not_used(service: Service) -> None:
    key = cache_key(fingerprint("fake", None), SPEC)
    service._memo.put(key, codec.encode(fake_work.result("x").info))
    assert service.peek(SPEC.model, SPEC) is None
    service._memo.put(key, b"not a result")
    assert service.peek(SPEC.model, SPEC) is None
    assert service.ask(SPEC.model, SPEC).tokens[0].text == "echo x"


def test_an_answer_from_other_weights_is_not_memoised(
    settings: ServiceSettings,
) -> None:
    changed = replace(settings, function="tests.support.fake_work:changed")
    with Service(changed, fingerprint) as service:
        assert service.ask(SPEC.model, SPEC).tokens[0].text == "echo x"
        assert service.peek(SPEC.model, SPEC) is None


def test_limits_are_checked_before_any_work(settings: ServiceSettings) -> None:
    limits = Limits(max_prompt_tokens=4, max_new_tokens=2)
    small = Service(replace(settings, limits=limits), fingerprint)
    with pytest.raises(SpecError, match=r"3 new tokens .* at most 2"):
        small.ask("fake", replace(SPEC, new_tokens=3))
    with pytest.raises(PromptError, match="300 characters"):
        small.ask("fake", RunSpec("fake", "x" * 300))
    with pytest.raises(PromptError, match=r"7 tokens; .* at most 6"):
        small.ask(TraceSpec("fake", (1,) * 7), FlowSpec())
    assert small.status().worker_pid is None
    small.close()


def test_an_unknown_model_is_refused_by_all_calls(service: Service) -> None:
    for call in (
        lambda: service.ask("unknown", RunSpec("unknown", "x")),
        lambda: service.peek("unknown", InfoSpec()),
        lambda: service.ask("unknown", InfoSpec()),
    ):
        with pytest.raises(UnknownModelError):
            call()


def test_a_job_cancelled_in_advance_does_nothing(service: Service) -> None:
    job = Job()
    job.cancel()
    with pytest.raises(CancelledError):
        service.ask(SPEC.model, SPEC, job)
    assert service.status().computed == 0


def test_an_answer_to_another_request_is_an_error(service: Service) -> None:
    with pytest.raises(AnalysisError, match="different request"):
        service.ask("fake", InfoSpec())


def test_an_unusable_memo_is_reported_and_everything_works(settings: ServiceSettings) -> None:
    assert settings.cache_dir is not None
    (settings.cache_dir / "memo").write_text("in the way")
    with Service(settings, fingerprint) as service:
        assert service.ask(SPEC.model, SPEC).tokens[0].text == "echo x"
        assert "memo" in service.problem
        assert service.status().memo.problem == service.problem


@pytest.mark.real
def test_on_the_real_model_nothing_is_computed_twice(
    default_model_dir: Path, tmp_path: Path
) -> None:
    settings = ServiceSettings(cache_dir=tmp_path, limits=Limits(max_prompt_tokens=8))
    spec = RunSpec("smollm2-135m-instruct", "The capital of France is", new_tokens=1)

    def everything(service: Service) -> list[Any]:
        run = service.ask(spec.model, spec)
        trace = TraceSpec(spec.model, run.token_ids)
        return [
            run,
            service.ask(trace, LensSpec()),
            service.ask(trace, FlowSpec(method="proximity", budget=50)),
        ]

    with Service(settings) as service:
        first = everything(service)
        assert first[0].tokens[-1].text == " Paris"
        assert service.status().forwards == 2  # one to generate, one over the whole sequence
        with pytest.raises(PromptError, match=r"9 tokens.* at most 8"):
            service.ask(spec.model, RunSpec(spec.model, token_ids=(1,) * 9))
        assert [codec.encode(one) for one in everything(service)] == [
            codec.encode(one) for one in first
        ]
        assert service.status().forwards == 2
    again = Service(settings)
    everything(again)
    assert again.status().worker_pid is None
    again.close()
