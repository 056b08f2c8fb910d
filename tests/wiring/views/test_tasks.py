"""The tasks view: from a form to figures and files of a report; no model, no browser."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import json
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import pytest

from analysis.contract.specs import InfoSpec
from analysis.errors import CancelledError, UnknownModelError
from analysis.tasks import export
from analysis.tasks.suite_report import curve, share
from analysis.tasks.suite_specs import (
    AnsweredPrompt,
    AnswerPair,
    EmergenceReport,
    FailureReport,
    FailureSpec,
    FlowChange,
    SuiteReport,
    SuiteSpec,
)
from analysis.tasks.sum_specs import (
    CarryCircuits,
    ContributionReport,
    ContributionSpec,
    PatchReport,
    PatchSpec,
    ProbeReport,
    ProbeSpec,
    Projection,
    ProjectionSpec,
)
from dash_app.state.context import PageId
from dash_app.state.selection import Selection
from dash_app.state.update import Event, reduce
from dash_app.views.tasks import actions
from dash_app.views.tasks.layout import part_target, prompt_target
from dash_app.views.tasks.reports import EVERY
from tests.support.components import text
from tests.support.fake_studies import suite_effects

PROMPTS = ("12345+00000=", "<b>&=", "1+1=")
FORM = {
    "model": "m", "suite": "addition", "size": 3, "digits": 2, "list": None, "own": 4,
    "component": "head 0.1", "place": "", "column": 1, "travels": "yes", "positions": "all",
}  # fmt: skip


def suite() -> SuiteReport:
    curves = (
        curve("right answers", [1, 2, 2], [0, 0, 2], 2),
        curve("wrong answers", [2], [1], 2),
        curve("empty", [], [], 2),
    )
    digits = (
        curve("answer0: right", [1, 2] * 6, [0, 2] * 6, 2),
        curve("token 1: wrong", [2], [1], 2),
    )
    found = EmergenceReport(
        "saturation", share("all", 2, 3), (share("chain 0", 2, 3),), curves, digits
    )
    return SuiteReport(
        "Sums", PROMPTS, ("012345", "7", "2"), ("012345", "<i>", "2"), (6, 1, 1),
        np.array([1, 0, 1]), np.array([1.5, np.nan, 2.0], np.float32), found, ("chain 0",) * 3,
    )  # fmt: skip


def contributions() -> ContributionReport:
    rng = np.random.default_rng(0)
    shape = (2, 2)
    return ContributionReport(
        np.arange(2), ("a0", "plus", "b0"), np.array([[2, 0], [1, 1]]),
        rng.normal(size=(*shape, 2, 3)), rng.normal(size=(*shape, 2)), rng.normal(size=shape),
        np.abs(rng.normal(size=(*shape, 2, 3))), rng.random((2, 2, 3, 3)), np.array([2, 1]),
        ("1+1=", "5+5="), np.array([[0, 0], [0, 1]]), 2,
    )  # fmt: skip


def probes() -> ProbeReport:
    accuracy = np.linspace(0.5, 1, 24, dtype=np.float32).reshape(4, 2, 3)
    return ProbeReport(
        ("row 0", "head 0.1"), ("a0", "plus", "b0"), ("carry1", "carry2", "sum0", "sum1"),
        accuracy, accuracy / 2, np.array([0.5, 0.5, 0.2, 0.2], np.float32), 14, 6, np.arange(3),
        np.array([2, 1, 2, 2]), ("1+1=", "5+5="), np.array([[0, 0, 2, 2], [1, 0, 10, 10]]), 2,
    )  # fmt: skip


def projection() -> Projection:
    return Projection(
        "head 0.1", "plus", np.eye(2, dtype=np.float32), np.array([0.7, 0.2], np.float32),
        np.array([0, 1]), np.array([2, 10]), 1, 1, ("1+1=", "5+5="), 2,
    )  # fmt: skip


def circuits() -> CarryCircuits:
    reads, carry = (np.array(one, np.float32) for one in ([[[0, 0]], [[0.75, 0]]], [[0.5], [0.1]]))
    steps = np.linspace(0, 1, 38, dtype=np.float32).reshape(2, 1, 19)
    return CarryCircuits(np.zeros(2, int), np.arange(2), np.array([1]), reads, carry, steps)


def patching(*, known: bool = True) -> PatchReport:
    effect = np.full((1, 2, 4), np.nan if not known else 0.25, np.float32)
    return PatchReport(
        ("row 0", "mlp 1"), ("a0", "plus", "b0", "everywhere"), np.array([1]), effect, effect / 2,
        np.array([9]), 10, np.array([2]), ("11+11=",), ("15+15=",), ("12+12=",), 3,
    )  # fmt: skip


def failure(*, pairs: bool = True) -> FailureReport:
    flow = np.full((3, 2), 0.5, np.float32)
    change = FlowChange(
        "proximity", flow, flow / 2, np.array([0.1, 0.2, 0.0], np.float32), ("attention", "mlp"),
        np.array([0, 1]), np.array([1, -1]), np.array([0, 1]), np.array([1, 1]),
        np.array([0.3, 0.2], np.float32), np.array([0.1, 0.25], np.float32),
    )  # fmt: skip
    rows = np.array([[0, 0.2], [0, 0.7], [0, 1.1]], np.float32)
    right, wrong = AnsweredPrompt("1+<i>=", "2", "2", 1), AnsweredPrompt("1+2=", "4", "3", 1)
    pair = AnswerPair(
        0, 1, 0, rows, np.full((2, 2), 0.3, np.float32), np.ones(2, np.float32),
        np.array([0, 0.5, 1], np.float32), np.array([0, 0.1, 0], np.float32), (1, 1), change,
        ("1", "+<i>"), ("1", "+2"), right, wrong,
    )  # fmt: skip
    return FailureReport((pair,) if pairs else (), 3, 1 if pairs else 0, 0)


MADE: dict[str, Any] = {
    "suite": suite, "contributions": contributions, "probes": probes, "projection": projection,
    "circuits": circuits, "patching": patching, "failure": failure, "effects": suite_effects,
}  # fmt: skip


class Service:
    """Answers studies only."""

    def __init__(self, answer: Any = None, error: Exception | None = None) -> None:
        self.answer, self.error = answer, error
        self.specs: list[Any] = []
        self.texts: dict[str, str] = {}

    def ask(self, _subject: Any, spec: Any, job: Any = None) -> Any:
        self.specs.append(spec)
        if self.error is not None:
            raise self.error
        return self.answer

    def keep(self, content: str) -> str:
        self.texts["h"] = content
        return "h"

    def kept(self, name: str) -> str | None:
        return self.texts.get(name)

    def peek(self, _subject: Any, spec: Any) -> Any:
        return None if isinstance(spec, InfoSpec) else self.answer


def no_job(_start: float, _end: float) -> None: ...


def run(service: Any, name: str = "suite", **changes: Any) -> dict[str, Any]:
    return actions.run(service, name, {**FORM, **changes}, no_job)


def finished(name: str, **changes: Any) -> dict[str, Any]:
    return {"form": {**FORM, "digits": 3, "own": 50 if name == "probes" else 4, **changes}}


def test_a_run_ends_in_a_form_that_fits_a_store() -> None:
    service = Service()
    ready = json.loads(json.dumps(run(service)))
    assert service.specs == [SuiteSpec("m", "addition", 3, 0, 2)]
    assert actions.spec_of(service, "suite", ready["form"]) == service.specs[0]


def test_each_report_uses_its_form() -> None:
    service = Service()
    for report in EVERY:
        assert "form" in run(
            service, report.name, own=50 if report.name == "probes" else 4, digits=3
        )
    _, fail, effect, contribute, probe, project, circuit, patch = service.specs
    assert (effect.suite, effect.size, effect.of_suite().digits) == ("addition", 3, 3)
    assert fail == FailureSpec(SuiteSpec("m", "addition", 3, 0, 3), 4)
    assert contribute == ContributionSpec("m", 3, 4)
    assert probe == ProbeSpec("m", 3, 50)
    assert project == ProjectionSpec("m", "head 0.1", "", 1, 3, 4)
    assert patch == PatchSpec("m", 3, 4, travels=True, positions="all") != circuit


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("suite", {"size": None}, "whole number"),
        ("suite", {"size": 0}, "0 prompts"),
        ("suite", {"size": 10**6}, "1000000"),
        ("suite", {"suite": "own"}, "no longer has the list"),
        ("patching", {"digits": 2}, "2-digit sums"),
        ("probes", {"own": 10}, "too few"),
        ("contributions", {"own": None}, "whole number"),
    ],
)
def test_an_invalid_form_is_reported(name: str, changes: dict[str, Any], said: str) -> None:
    service = Service()
    assert said in run(service, name, **changes)["problem"][0]
    assert not service.specs


def test_errors_and_cancels_are_shown_in_the_panel() -> None:
    ready = run(Service(error=UnknownModelError("No such model.", "Pick one.")))
    assert actions.draw(Service(), "suite", ready, {}, "light") is None
    assert "No such model." in text(actions.message_without_report(ready))
    assert "Start again to continue" in text(
        actions.message_without_report(run(Service(error=CancelledError())))
    )


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", list(MADE))
def test_each_report_is_drawn_completely(name: str, theme: str) -> None:
    drawn = actions.draw(Service(MADE[name]()), name, finished(name), {}, theme)
    assert drawn is not None
    said = text([drawn.summary, *drawn.figures])
    assert drawn.figures
    assert "Something went wrong" not in said
    for option in drawn.lists.values():
        assert option[1] in [one["value"] for one in option[0]]


def figures(name: str, **options: Any) -> list[dict[str, Any]]:
    """The figures of a report, as the page gets them."""
    drawn = actions.draw(Service(MADE[name]()), name, finished(name), options, "light")
    assert drawn is not None
    return [
        graph.figure
        for part in drawn.figures
        for graph in part._traverse()
        if hasattr(graph, "figure")
    ]


def test_figures_of_a_suite_have_its_numbers_and_open_its_prompts() -> None:
    bars, digits, curves, dots = figures("suite")
    assert digits["layout"]["yaxis"]["ticktext"] == ["digit 0", "token 1"]
    assert "too few prompts" in digits["data"][0]["text"][0]
    assert bars["data"][0]["x"] == ["all<br>2 of 3", "chain 0<br>2 of 3"]
    names = [line["name"] for line in curves["data"] if "name" in line]
    assert names == ["right answers (3, too few)", "wrong answers (1, too few)"]
    opened = [parse_qs(link)["prompt"][0] for link in dots["data"][0]["customdata"]]
    assert opened == list(PROMPTS)
    assert "&lt;b&gt;" in dots["data"][0]["text"][1]
    assert curves["data"][1]["customdata"][1] == prompt_target("m", PROMPTS[0], 6)


def test_a_cell_opens_a_sum_of_its_group() -> None:
    table, read = figures("contributions", head="1.2")
    heat = table["data"][0]
    link = parse_qs(heat["customdata"][heat["y"].index(3)][3])  # head 0.2, digit 1 with a carry
    assert link["prompt"] == ["5+5="]
    assert (link["layer"], link["heads"], link["pos"]) == (["0"], ["2"], ["1"])
    assert heat["customdata"][0][1] == ""  # no sum has a carry into the units
    assert "head 1.2" in read["layout"]["title"]["text"]


def test_the_control_is_drawn_on_request() -> None:
    measured, control = (figures("probes", control=how)[-1] for how in ("no", "yes"))
    assert "control" in control["layout"]["title"]["text"]
    np.testing.assert_allclose(measured["data"][0]["z"], 2 * control["data"][0]["z"])
    assert figures("probes", target="carry2")[-1]["data"][0]["z"][0, 0] == pytest.approx(
        probes().accuracy[1, 0, 0]
    )
    patched = figures("patching", control="yes")[0]
    assert patched["data"][0]["z"][0, 0] == 0.125


def test_a_model_without_a_right_pair_is_reported() -> None:
    service = Service(patching(known=False))
    drawn = actions.draw(service, "patching", {"form": FORM | {"digits": 3}}, {}, "light")
    assert drawn is not None
    assert not drawn.figures
    assert "Nothing was patched" in text(drawn.summary)


def test_failures_are_aligned_and_a_missing_failure_is_reported() -> None:
    states = figures("failure")[0]
    assert states["layout"]["xaxis"]["ticktext"] == ["1<br>1", "<b>+&lt;i&gt;<br>+2</b>"]
    opened = parse_qs(states["data"][0]["customdata"][0][1])
    assert (opened["prompt"], opened["row"], opened["pos"]) == (["1+2="], ["2"], ["1"])
    service = Service(failure(pairs=False))
    drawn = actions.draw(service, "failure", {"form": FORM}, {}, "light")
    assert drawn is not None
    assert "no failure" in text(drawn.summary)


@pytest.mark.parametrize("name", list(MADE))
def test_downloads_contain_the_numbers_of_the_report(name: str) -> None:
    report, ready = MADE[name](), finished(name)
    (own,) = (one for one in EVERY if one.name == name)
    assert own.sheets == tuple(sheet.name for sheet in export.sheets(report))
    for sheet in export.sheets(report):
        file = actions.file_of(Service(report), name, f"csv-{sheet.name}", ready)
        assert file is not None
        rows = list(csv.reader(io.StringIO(file.text)))
        assert tuple(rows[0]) == sheet.header
        assert len(rows) == 1 + len(list(sheet.rows(report)))
        assert all(len(row) == len(sheet.header) for row in rows)
    whole = actions.file_of(Service(report), name, "json", ready)
    assert whole is not None
    assert json.loads(whole.text)


def test_a_table_equals_the_arrays() -> None:
    report = probes()
    rows = list(csv.DictReader(io.StringIO(export.as_csv(report, "probes"))))
    (row,) = (
        r for r in rows
        if (r["target"], r["component"], r["place"]) == ("carry2", "head 0.1", "plus")
    )  # fmt: skip
    assert float(row["accuracy"]) == report.accuracy[1, 1, 1]
    assert float(row["control"]) == report.control[1, 1, 1]
    empty = list(csv.DictReader(io.StringIO(export.as_csv(suite(), "prompts"))))
    assert empty[1]["mean_row"] == ""


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1"])
def test_a_table_contains_no_spreadsheet_formula(text: str) -> None:
    report = dataclasses.replace(suite(), prompts=(text, "12+3=", "a"))
    first, second, _ = csv.DictReader(io.StringIO(export.as_csv(report, "prompts"), newline=""))
    assert first["prompt"] == f"'{text}"
    assert second["prompt"] == "12+3="


def sent(text: str | bytes) -> str:
    data = text.encode() if isinstance(text, str) else text
    return "data:text/csv;base64," + base64.b64encode(data).decode()


def upload(service: Any, contents: Any, name: str = "mine.csv") -> actions.Uploaded:
    return actions.upload(service, contents, name, most_bytes=200, most_rows=2)


def test_a_valid_list_is_kept_and_run_by_its_hash() -> None:
    service = Service()
    found = upload(service, sent("prompt,answer\n1+1=,2\n"))
    assert found.kept == {"hash": "h", "name": "mine.csv", "count": 1}
    assert actions.suite_options(found.kept)[-1]["value"] == "own"
    assert "form" in run(service, suite="own", list=found.kept)
    (spec,) = service.specs
    assert json.loads(spec.content)["prompt"] == "1+1="
    assert spec.title == "mine.csv"


@pytest.mark.parametrize(
    ("contents", "name", "said"),
    [
        (sent("prompt,answer\nx,\n,y\n"), "a.csv", ["Line 2: the answer", "Line 3: the prompt"]),
        (sent("prompt,answer\n" + "a,b\n" * 3), "a.csv", ["more than 2 prompts"]),
        (sent("x" * 400), "a.csv", ["larger than"]),
        (sent(b"\xff\xfe"), "a.csv", ["not UTF-8"]),
        (sent("prompt,answer\na,b\n"), "a.xlsx", ["not a .csv or .jsonl file"]),
        ("data:;base64,???", "a.csv", ["is incomplete"]),
        (None, None, [""]),
        (sent('{"prompt": "\\ud800", "answer": "b"}'), "a.jsonl", ["half of a surrogate pair"]),
    ],
)
def test_a_bad_list_is_refused_line_by_line(contents: Any, name: Any, said: list[str]) -> None:
    service = Service()
    found = upload(service, contents, name)
    assert found.kept is None
    assert all(one in text(found.message) for one in said)
    assert "Earlier results are kept" in text(found.message)
    assert not service.texts


def test_positions_to_project_are_known_after_probing() -> None:
    lists = actions.projection_lists(Service(), "m", None, 3, ("x", "plus", 2))
    assert [one["value"] for one in lists[2]] == [""]
    assert (lists[1], lists[3], lists[5]) == ("row 1", "", "2")
    fitted = finished("probes")
    lists = actions.projection_lists(Service(probes()), "m", fitted, 3, ("x", "plus", 9))
    assert [one["value"] for one in lists[2]] == ["", "a0", "plus", "b0"]
    assert (lists[3], lists[5]) == ("plus", "1")


def test_a_click_runs_the_prompt_and_chooses_the_cell() -> None:
    before = Selection(model="other", prompt="x", row=3, pos=2, layer=9, heads=(4,), attempt=4)
    link = part_target("m", "12345+00000=", 6, "head 0.3", 7)
    after = reduce(Event(PageId.EVENTS, "data", {"to": link}), before, None, before, ()).selection
    assert (after.model, after.prompt, after.new, after.attempt) == ("m", "12345+00000=", 6, 5)
    assert (after.row, after.pos, after.layer, after.heads) == (1, 7, 0, (3,))
    plain = prompt_target("m", "1+1=", 2)
    after = reduce(Event(PageId.EVENTS, "data", {"to": plain}), before, None, before, ()).selection
    assert (after.row, after.pos, after.heads) == (None, None, ())
