"""The worker's engine keeps models within a budget, and every answer names its model."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis import codec
from analysis.model import catalog, memory
from analysis.tracing.specs import PatternSpec, RunSpec, TraceSpec
from analysis.worker.engine import Engine
from analysis.worker.messages import Limits, Request


def request(folder: Path, *specs: object, kind: str = "run") -> Request:
    name = str(folder)
    return Request(kind, name, catalog.fingerprint(name), specs or (RunSpec(name, "the capital"),))  # type: ignore[arg-type]


def loaded(engine: Engine) -> set[str]:
    return {Path(model.info.source).name for model, _ in engine._models._values.values()}


@pytest.fixture
def folders(tiny_gpt2_dir: Path, tiny_llama_dir: Path) -> tuple[Path, Path]:
    return tiny_gpt2_dir, tiny_llama_dir


def test_two_models_stay_resident_within_the_budget(folders: tuple[Path, Path]) -> None:
    engine = Engine(Limits(device="cpu"))
    for folder in (*folders, *folders):
        engine.perform(request(folder))
    assert loaded(engine) == {folder.name for folder in folders}


def test_the_least_recently_used_model_is_evicted_first(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = folders
    seen: list[set[str]] = []
    engine = Engine(
        Limits(device="cpu", model_bytes=memory.needed(catalog.find(str(second)), "float32"))
    )
    engine.perform(request(first))
    load = memory.require
    monkeypatch.setattr(memory, "require", lambda *said: (seen.append(loaded(engine)), load(*said)))
    engine.perform(request(second))
    assert seen == [set()]
    assert loaded(engine) == {second.name}


def test_low_memory_evicts_models_too(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = folders
    engine = Engine(Limits(device="cpu"))
    engine.perform(request(first))
    monkeypatch.setattr(memory, "free", lambda _place: 0 if len(engine._models) else 1 << 40)
    engine.perform(request(second))
    assert loaded(engine) == {second.name}


def test_every_answer_names_the_model_and_its_revision(tiny_llama_dir: Path) -> None:
    engine = Engine(Limits(device="cpu"))
    trace = TraceSpec(str(tiny_llama_dir), (5, 9, 3))
    for asked in (
        request(tiny_llama_dir),
        request(tiny_llama_dir, kind="info"),
        request(tiny_llama_dir, trace, PatternSpec(1), kind="pattern"),
    ):
        assert codec.origin(engine.perform(asked).data) == {
            "source": str(tiny_llama_dir),
            "revision": catalog.revision(catalog.find(str(tiny_llama_dir))),
            "dtype": "float32",
            "quantised": "",
        }


def test_a_run_lists_the_tokens_that_the_tokenizer_added(tiny_llama_dir: Path) -> None:
    answer = codec.decode(Engine(Limits(device="cpu")).perform(request(tiny_llama_dir)).data)
    assert answer.added == ()
