"""The facade: memo before queue, limits before work, no torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis import codec
from analysis.errors import AnalysisError, CancelledError, PromptError, SpecError, UnknownModelError
from analysis.lens_specs import EmbeddingSpec, PromotedSpec
from analysis.link_specs import LinkSpec, NeuronSpec
from analysis.requests import ON_MODEL, ON_TRACE
from analysis.service import Job, Service, ServiceSettings
from analysis.specs import FlowSpec, LensSpec, PatternSpec, RunSpec, TraceSpec, cache_key
from tests.support import fake_work
from tests.support.fake_service import FakeService

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
        "import sys, dash_app.jobs; from pathlib import Path; from analysis.service import *;"
        f"Service(ServiceSettings(cache_dir=Path({str(tmp_path)!r}))).close();"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", script], check=True, cwd=root)


def test_a_second_identical_request_computes_nothing(service: Service) -> None:
    first = service.run(SPEC)
    assert (service.status().forwards, service.status().computed) == (1, 1)
    assert codec.encode(service.run(SPEC)) == codec.encode(first)
    assert (service.status().forwards, service.status().computed) == (1, 1)


def test_after_a_restart_the_memo_answers_without_a_worker(settings: ServiceSettings) -> None:
    with Service(settings, fingerprint) as before:
        before.run(SPEC)
    idle = Service(settings, fingerprint)
    assert idle.run(SPEC).tokens[0].text == "echo x"
    assert idle.status().worker_pid is None
    idle.close()


def test_peek_finds_what_is_there_and_computes_nothing(service: Service) -> None:
    assert service.peek(SPEC) is None
    assert service.peek("fake") is None
    assert service.peek(TraceSpec("fake", (1,)), LensSpec()) is None
    service.run(SPEC)
    found = service.peek(SPEC)
    assert found is not None
    assert found.tokens[0].text == "echo x"
    assert service.status().computed == 1


def test_every_kind_of_question_has_its_entry(service: Service) -> None:
    """Whatever the tables name is looked up under its own key, and only as what it is."""
    trace = TraceSpec("fake", (1, 2))
    info = codec.encode(fake_work.result("x").info)
    for table, where in ((ON_TRACE, trace), (ON_MODEL, "fake")):
        for kind in table:
            option = made(kind)
            specs = (trace, option) if where is trace else (option,)
            key = cache_key(fingerprint("fake", None), *specs)
            assert service.peek(where, option) is None
            service._memo.put(key, info)
            assert service.peek(where, option) is None  # another kind of result: not taken
            assert service._memo.get(key) is None
    for ask in (service.derive, service.report):
        with pytest.raises(SpecError, match="not a kind of request"):
            ask(trace, SPEC)
    with pytest.raises(SpecError, match="not a kind of request"):
        service.peek(trace, None)


def made(kind: type[Any]) -> Any:
    """A spec of a kind with whatever it can't do without."""
    needed: dict[type[Any], Any] = {
        PatternSpec: (0,),
        PromotedSpec: ("mlp_output", 0, 0),
        LinkSpec: ("mlp", 0, 0, 0),
        NeuronSpec: (0,),
    }
    return kind(*needed.get(kind, ()))


def test_a_typed_call_and_the_general_one_share_an_entry(settings: ServiceSettings) -> None:
    """Both are answered from the memo: no worker is started."""
    idle = Service(settings, fingerprint)
    trace, spec = TraceSpec("fake", (1, 2)), LensSpec()
    grid = FakeService().grid(trace, spec)
    idle._memo.put(cache_key(fingerprint("fake", None), trace, spec), codec.encode(grid))
    for found in (idle.grid(trace, spec), idle.derive(trace, spec), idle.peek(trace, spec)):
        assert codec.encode(found) == codec.encode(grid)
    report = FakeService().report("fake", EmbeddingSpec())
    key = cache_key(fingerprint("fake", None), EmbeddingSpec())
    idle._memo.put(key, codec.encode(report))
    assert idle.report("fake", EmbeddingSpec()).sentence == report.sentence
    assert idle.peek("fake", EmbeddingSpec()).sentence == report.sentence
    assert idle.status().worker_pid is None
    idle.close()


def test_other_weights_dtypes_and_options_are_other_entries(
    service: Service, settings: ServiceSettings
) -> None:
    service.run(SPEC)
    assert service.peek(replace(SPEC, model="other")) is None
    assert service.peek(replace(SPEC, new_tokens=1)) is None
    half = Service(replace(settings, dtype="bfloat16"), fingerprint)
    assert half.peek(SPEC) is None
    half.close()


def test_an_entry_of_another_kind_is_never_taken_for_this_one(service: Service) -> None:
    key = cache_key(fingerprint("fake", None), SPEC)
    service._memo.put(key, codec.encode(fake_work.result("x").info))
    assert service.peek(SPEC) is None
    service._memo.put(key, b"not a result")
    assert service.peek(SPEC) is None
    assert service.run(SPEC).tokens[0].text == "echo x"


def test_an_answer_by_other_weights_than_asked_for_is_not_kept(
    settings: ServiceSettings,
) -> None:
    changed = replace(settings, function="tests.support.fake_work:changed")
    with Service(changed, fingerprint) as service:
        assert service.run(SPEC).tokens[0].text == "echo x"
        assert service.peek(SPEC) is None


def test_limits_are_looked_at_before_any_work(settings: ServiceSettings) -> None:
    small = Service(replace(settings, max_prompt_tokens=4, max_new_tokens=2), fingerprint)
    with pytest.raises(SpecError, match=r"3 new tokens .* at most 2"):
        small.run(replace(SPEC, new_tokens=3))
    with pytest.raises(PromptError, match="300 characters"):
        small.run(RunSpec("fake", "x" * 300))
    with pytest.raises(PromptError, match=r"7 tokens; .* at most 6"):
        small.flow(TraceSpec("fake", (1,) * 7), FlowSpec())
    assert small.status().worker_pid is None
    small.close()


def test_an_unknown_model_is_refused_by_all_calls(service: Service) -> None:
    for call in (
        lambda: service.run(RunSpec("unknown", "x")),
        lambda: service.peek("unknown"),
        lambda: service.model_info("unknown"),
    ):
        with pytest.raises(UnknownModelError):
            call()


def test_a_job_cancelled_before_it_is_asked_does_nothing(service: Service) -> None:
    job = Job()
    job.cancel()
    with pytest.raises(CancelledError):
        service.run(SPEC, job)
    assert service.status().computed == 0


def test_an_answer_to_another_question_is_an_error(service: Service) -> None:
    with pytest.raises(AnalysisError, match="another question"):
        service.model_info("fake")


def test_an_unusable_memo_is_told_and_in_nobodys_way(settings: ServiceSettings) -> None:
    assert settings.cache_dir is not None
    (settings.cache_dir / "memo").write_text("in the way")
    with Service(settings, fingerprint) as service:
        assert service.run(SPEC).tokens[0].text == "echo x"
        assert "memo" in service.problem
        assert service.status().memo.problem == service.problem


@pytest.mark.real
def test_on_the_real_model_nothing_is_computed_twice(
    default_model_dir: Path, tmp_path: Path
) -> None:
    settings = ServiceSettings(cache_dir=tmp_path, max_prompt_tokens=8)
    spec = RunSpec("smollm2-135m-instruct", "The capital of France is", new_tokens=1)

    def everything(service: Service) -> list[Any]:
        run = service.run(spec)
        trace = TraceSpec(spec.model, run.token_ids)
        return [run, service.grid(trace, LensSpec()), service.flow(trace, FlowSpec(budget=50))]

    with Service(settings) as service:
        first = everything(service)
        assert first[0].tokens[-1].text == " Paris"
        assert service.status().forwards == 2  # one to generate, one over the whole sequence
        with pytest.raises(PromptError, match=r"9 tokens.* at most 8"):
            service.run(RunSpec(spec.model, token_ids=(1,) * 9))
        assert [codec.encode(one) for one in everything(service)] == [
            codec.encode(one) for one in first
        ]
        assert service.status().forwards == 2
    again = Service(settings)
    everything(again)
    assert again.status().worker_pid is None
    again.close()
