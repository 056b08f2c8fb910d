"""Disagreement and the reports on a model: requests, pictures and texts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from analysis.contract.specs import ModelInfo
from analysis.errors import CancelledError
from analysis.lens.options import DECODERS
from analysis.lens.specs import DisagreementSpec
from dash_app.state.selection import RunRef, Selection
from dash_app.views import disagreement, model
from tests.support.components import text
from tests.support.fake_service import FakeService, refuse


def no_job(_start: float, _end: float) -> None:
    return None


class Untied(FakeService):
    """The same service for an untied model."""

    def model_info(self, name: str, job: Any = None) -> ModelInfo:
        return dataclasses.replace(super().model_info(name, job), tied_embeddings=False)


@pytest.fixture
def untied() -> Untied:
    return Untied()


@pytest.fixture(autouse=True)
def no_lens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.learned.library.available", lambda _name: None)


def test_decoders_are_compared_on_request(untied: Untied, run_ref: RunRef) -> None:
    figure, controls, note, off = disagreement.draw(untied, run_ref, Selection(), "light", None)
    assert "Press Compare" in note
    assert not off
    assert figure["data"] == []
    assert "Leave out Output" in text(controls)
    ready = disagreement.compute(untied, run_ref, Selection(), no_job)
    figure, _, note, off = disagreement.draw(
        untied, run_ref, Selection(row=3, pos=2), "light", ready
    )
    assert off
    assert figure["layout"]["meta"]["rows"] == list(range(13))
    assert figure["layout"]["shapes"][0]["y0"] == 2.5
    assert "Jensen-Shannon" in figure["data"][0]["colorbar"]["title"]["text"]
    assert "Output, input, linear, full norm" in note
    assert "On this model output and input coincide" in note
    written = figure["layout"]["meta"]["labels"]
    assert [len(line) for line in written] == [7] * 13
    assert written[12][0] == "·Paris"  # token 5, the first decoder's in the last row
    hover = figure["data"][0]["customdata"][0][2]
    assert all(name in hover for name in ("output", "input", "linear", "divergence"))


def test_top_tokens_are_a_second_measure_and_a_window_is_drawn(
    untied: Untied, run_ref: RunRef
) -> None:
    selection = Selection(differ="top1", show="answer", readers=("output", "input"), norm="unit")
    disagreement.compute(untied, run_ref, selection, no_job)
    spec = next(spec for _, spec in untied.memo if isinstance(spec, DisagreementSpec))
    assert (spec.decoders, spec.norm, spec.positions) == (("output", "input"), "unit", (4, 5, 6))
    figure, _, note, _ = disagreement.draw(untied, run_ref, selection, "dark", None)
    assert figure["layout"]["meta"]["positions"] == [4, 5, 6]
    assert "differ" in figure["data"][0]["colorbar"]["title"]["text"]
    assert figure["data"][0]["z"][0, 0] == 1.0
    assert figure["data"][0]["z"][-1, 0] == 0.0
    assert "positions 4 to 6 of 7" in note


def test_on_a_tied_model_there_is_one_reading(
    service: FakeService, run_ref: RunRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, controls, note, off = disagreement.draw(service, run_ref, Selection(), "light", None)
    assert off
    assert "has only one decoder" in note
    barred = sum(decoder.single for decoder in DECODERS.values()) - 1
    assert text(controls).count('"disabled": true') == barred
    monkeypatch.setattr("analysis.learned.library.available", lambda _name: Path())
    assert disagreement.draw(service, run_ref, Selection(), "light", None)[3] is False
    disagreement.compute(service, run_ref, Selection(), no_job)
    spec = next(spec for _, spec in service.memo if isinstance(spec, DisagreementSpec))
    assert spec.decoders == ("output", "learned")


def test_one_decoder_alone_cannot_be_compared(untied: Untied, run_ref: RunRef) -> None:
    shown = disagreement.draw(untied, run_ref, Selection(readers=("output",)), "light", None)
    assert shown[2:] == (disagreement.TOO_FEW, True)


def test_a_move_needs_no_new_picture_unless_pages_turn(run_ref: RunRef) -> None:
    assert disagreement.same_picture(run_ref, Selection())
    assert not disagreement.same_picture(run_ref, Selection(fold=2))
    long = run_ref.model_copy(update={"token_ids": tuple(range(200))})
    assert not disagreement.same_picture(long, Selection())


def test_errors_and_cancels_of_a_comparison(untied: Untied, run_ref: RunRef) -> None:
    untied.fail["disagreement"] = CancelledError()
    assert disagreement.compute(untied, run_ref, Selection(), no_job) is None
    untied.fail["disagreement"] = refuse("It broke.", "Again.")
    ready = disagreement.compute(untied, run_ref, Selection(), no_job)
    assert "It broke." in text(disagreement.draw(untied, run_ref, Selection(), "light", ready)[0])


def test_reports_appear_one_by_one(service: FakeService, run_ref: RunRef) -> None:
    assert model.draw(service, run_ref, Selection(), "light", None) == ([], False)
    told: list[Any] = []
    assert model.measure(service, run_ref, no_job, hand_over=told.append) == {"done": 3}
    assert told == [{"done": 1}, {"done": 2}]
    shown, done = model.draw(service, run_ref, Selection(), "light", told[-1])
    assert done
    said = text(shown)
    assert "Input and output embeddings differ (untied)" in said
    assert "The final RMSNorm multiplies its channels by 0.2 to 3" in said
    assert "inside the unit ball" in said
    assert len(shown) == 3


def test_a_failed_report_is_shown_beside_the_others(service: FakeService, run_ref: RunRef) -> None:
    service.fail["norm_report"] = refuse("No norm here.", "Ask another.")
    ready = model.measure(service, run_ref, no_job, hand_over=lambda _news: None)
    shown, done = model.draw(service, run_ref, Selection(), "light", ready)
    assert not done
    assert "No norm here." in text(shown)
    assert "Embeddings" in text(shown)
    service.fail["embedding_report"] = CancelledError()
    service.memo.clear()
    assert model.measure(service, run_ref, no_job, hand_over=lambda _news: None) is None
