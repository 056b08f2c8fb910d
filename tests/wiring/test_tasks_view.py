"""The tasks view: from a suite to its figures, from a dot to its prompt; no model, no browser."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from plotly.io.json import to_json_plotly as to_json

from analysis.errors import CancelledError, UnknownModelError
from analysis.results.tasks import EmergenceReport, SuiteReport
from analysis.tasks.spec import SuiteSpec
from analysis.tasks.statistics import curve, share
from dash_app.state import Selection, to_query
from dash_app.views.tasks import actions

PROMPTS = ("12345+00000=", "<b>&=", "1+1=")


def report() -> SuiteReport:
    curves = (
        curve("right answers", [1, 2, 2], [0, 0, 2], 2),
        curve("wrong answers", [2], [1], 2),
        curve("empty", [], [], 2),
    )
    found = EmergenceReport("saturation", share("all", 2, 3), (share("chain 0", 2, 3),), curves)
    return SuiteReport(
        "Sums", PROMPTS, ("012345", "7", "2"), ("012345", "<i>", "2"), (6, 1, 1),
        np.array([1, 0, 1]), np.array([1.5, np.nan, 2.0], np.float32), found,
    )  # fmt: skip


class Service:
    """Answers suites only."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.specs: list[SuiteSpec] = []

    def suite(self, spec: SuiteSpec, job: Any = None) -> SuiteReport:
        self.specs.append(spec)
        if self.error is not None:
            raise self.error
        return report()


def no_job(_start: float, _end: float) -> None:
    return None


def run(service: Any, **changes: Any) -> dict[str, Any]:
    asked = {"model": "m", "suite": "addition", "size": 3, "digits": 2, **changes}
    return actions.run(service, **asked, job=no_job)


def test_a_run_ends_in_a_spec_that_fits_a_store() -> None:
    ready = json.loads(json.dumps(run(Service())))
    assert SuiteSpec(**ready["spec"]) == SuiteSpec("m", "addition", 3, 0, 2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"size": None}, "whole numbers"), ({"size": 0}, "0 prompts"), ({"size": 10**6}, "1000000")],
)
def test_nonsense_is_told_and_nothing_is_run(changes: dict[str, Any], said: str) -> None:
    service = Service()
    assert said in run(service, **changes)["trouble"][0]
    assert not service.specs


def test_errors_and_cancellation_are_told_in_the_panel() -> None:
    ready = run(Service(UnknownModelError("No such model.", "Pick one.")))
    shown = actions.show(Service(), ready, "light")
    assert shown.bars is None
    assert "No such model." in to_json(shown.summary)
    cancelled = run(Service(CancelledError()))
    assert "go on" in to_json(actions.show(Service(), cancelled, "light").summary)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_report_is_drawn_whole(theme: str) -> None:
    ready = {"spec": asdict(SuiteSpec("m", "addition", 3))}
    shown = actions.show(Service(), ready, theme)
    assert "2 of 3 right" in to_json(shown.summary)
    assert shown.bars["data"][0]["x"] == ["all", "chain 0"]
    names = [line["name"] for line in shown.curves["data"] if "name" in line]
    assert names == ["right answers (3)", "wrong answers (1)"]
    assert len(shown.dots["data"][0]["customdata"]) == 3
    assert "<b>" not in shown.dots["data"][0]["text"][1]
    wrong = to_json(shown.wrong)
    assert "right is '7'" in wrong
    assert "1+1=" not in wrong


def test_a_dot_opens_its_prompt_as_a_new_run() -> None:
    ready = {"spec": asdict(SuiteSpec("m", "addition", 3))}
    links = actions.show(Service(), ready, "light").dots["data"][0]["customdata"]
    before = Selection(model="other", prompt="x", row=3, pos=2, attempt=4)
    after = actions.opened({"points": [{"customdata": links[0]}]}, before, None)
    assert (after.model, after.prompt, after.new) == ("m", "12345+00000=", 6)
    assert after.row is None
    assert after.attempt == 5
    assert "12345%2B00000%3D" in to_query(after, before)


@pytest.mark.parametrize("click", [None, {}, {"points": []}, {"points": [{"customdata": [1]}]}])
def test_clicks_on_nothing_change_nothing(click: Any) -> None:
    before = Selection(model="m", prompt="x")
    assert actions.opened(click, before, None) == before
