"""The curves' panel: pins, tables of steps, and the strip of all positions."""

from __future__ import annotations

from typing import Any

import pytest

from analysis.errors import CancelledError
from analysis.trajectory.specs import EmergenceSpec
from dash_app.state.context import trace_of
from dash_app.state.options import CURVES
from dash_app.state.selection import RunRef, Selection
from dash_app.views import curves
from tests.support.components import text
from tests.support.fake_service import FakeService, refuse


def no_job(_start: float, _end: float) -> None:
    return None


def test_curves_follow_the_pins(service: FakeService, run_ref: RunRef) -> None:
    figure, pins, line, table = curves.draw(service, run_ref, Selection(pins=(5, 7)), "light")
    assert figure["layout"]["meta"]["pins"] == [5, 7]
    assert figure["layout"]["meta"]["chosen"]
    assert len(pins) == 2
    assert "position 4" in line
    said = text(table)
    assert "layer 9, attention" in said
    assert "head 3 +2.1 reading The" in said
    assert "layer=9&row=10&pos=4&heads=3" in said
    assert "never" in said  # the second token's
    figure, pins, _, _ = curves.draw(service, run_ref, Selection(), "light")
    assert len(pins) == 2
    assert not figure["layout"]["meta"]["chosen"]


@pytest.mark.parametrize("curve", CURVES)
def test_without_pins_only_rows_have_curves(
    service: FakeService, run_ref: RunRef, curve: Any
) -> None:
    figure, pins, _, table = curves.draw(service, run_ref, Selection(pins=(), curve=curve), "light")
    assert ("No token is pinned" in text(figure)) == (curve not in ("entropy", "kl"))
    assert pins == []
    assert table == []


def test_all_positions_are_measured_after_the_page_is_drawn(
    service: FakeService, run_ref: RunRef
) -> None:
    figure, line, done = curves.draw_strip(service, run_ref, Selection(), "light", None).values
    assert line == curves.MEASURING
    assert not done
    ready = curves.measure(service, run_ref, no_job, causal=False)
    service.memo[trace_of(run_ref), curves.PLAIN] = plain(service, run_ref)
    figure, line, done = curves.draw_strip(
        service, run_ref, Selection(show="answer"), "light", ready
    ).values
    assert figure["layout"]["meta"]["positions"] == [4, 5, 6]
    assert "positions 4 to 6 of 7" in line
    assert not done
    service.memo[trace_of(run_ref), curves.CAUSAL] = service.ask(trace_of(run_ref), curves.CAUSAL)
    assert curves.draw_strip(service, run_ref, Selection(), "light", ready).values[2]


def test_commits_are_a_new_result_of_the_job_so_that_the_strip_is_drawn_again(
    service: FakeService, run_ref: RunRef
) -> None:
    first = curves.measure(service, run_ref, no_job, causal=False)
    service.memo.clear()
    again = curves.measure(service, run_ref, no_job, causal=True)
    assert first != again
    assert [set(first or ()), set(again or ())] == [{"done"}, {"done"}]


def plain(service: FakeService, run_ref: RunRef) -> Any:
    import dataclasses

    found = service.ask(trace_of(run_ref), EmergenceSpec())
    return dataclasses.replace(found, causal_commit=None)


def test_errors_and_cancels_are_shown_in_their_panel(service: FakeService, run_ref: RunRef) -> None:
    before = plain(service, run_ref)
    service.memo.clear()
    service.fail["emergence"] = CancelledError()
    assert curves.measure(service, run_ref, no_job, causal=True) is None
    service.fail["emergence"] = refuse("It broke.", "Again.")
    ready = curves.measure(service, run_ref, no_job, causal=True)
    assert "It broke." in text(
        curves.draw_strip(service, run_ref, Selection(), "light", ready).values
    )
    service.memo[trace_of(run_ref), curves.PLAIN] = before
    figure, line, whole = curves.draw_strip(service, run_ref, Selection(), "light", ready).values
    assert figure["layout"]["meta"]["positions"] == list(range(7))  # what was measured stays
    assert line.startswith("It broke. Again. Request ")
    assert "The layer after which the model's choice emerges" in line
    assert not whole  # commits can be asked for again
    service.fail["steps"] = refuse("No steps.", "Again.")
    assert "No steps." in text(curves.draw(service, run_ref, Selection(), "light"))
