"""One call answers a gesture: with all that it moved, with nothing else, and without computing."""

from __future__ import annotations

from typing import Any

import pytest
from dash import Output

from analysis.errors import WorkerStoppedError
from analysis.tracing.specs import PatternSpec, RunSpec
from dash_app.app import create_app
from dash_app.settings import Settings
from dash_app.state.context import Drawing, JobStart, PageId, Shown, split, trace_of
from dash_app.state.drawings import Answer, PageState, compute, draw_changed, job_key
from dash_app.state.selection import RunRef, Selection
from tests.support.components import text
from tests.support.dash_client import DashClient
from tests.support.fake_service import FakeService, refuse
from tests.wiring.test_app import components


class Complete(FakeService):
    """A service whose memo has everything; it counts what had to be computed."""

    def peek(self, subject: Any, spec: Any) -> Any:
        return super().ask(subject, spec)

    def ask(self, subject: Any, spec: Any, job: Any = None) -> Any:
        raise AssertionError(f"{spec} was requested")


@pytest.fixture
def page(settings: Settings) -> DashClient:
    return DashClient(create_app(Complete(), settings))


def stores(run: RunRef, selection: Selection, **more: Any) -> dict[str, Any]:
    named = {f"{name.replace('_', '-')}.data": value for name, value in more.items()}
    held = {f"{part}.data": data for part, data in split(selection).items()}
    further = {"contributions-order.value": "size", "contributions-count.value": "20"}
    return {**held, "run.data": run.model_dump(), "scheme.data": "light", **further, **named}


def report(to: str, number: int = 1) -> dict[str, Any]:
    return {"reports": [{"to": to, "n": number}]}


VIEWS_OF_A_CELL = {
    "lens-inspector", "curves-graph", "attention-graph", "contributions-table", "flow-graph",
    "tokens-strip", "story-text", "ledger-run",
}  # fmt: skip


def test_one_answer_has_every_view_that_a_move_changes(page: DashClient, run_ref: RunRef) -> None:
    here = Selection(attempt=1, row=3, pos=2, layer=2)
    first = page.answer("drawn.data", {"scheme.data"}, stores(run_ref, here))
    assert set(first) >= {*VIEWS_OF_A_CELL, "model-reports", "run-chips"}
    moved = stores(
        run_ref, here, drawn=first["drawn"]["data"], events=report("row=3&pos=1&layer=2")
    )
    second = page.answer("drawn.data", {"events.data"}, moved)
    assert second["cell"]["data"] == {"row": 3, "pos": 1}
    assert set(second) >= VIEWS_OF_A_CELL
    assert set(second).isdisjoint({"model-reports", "run-chips", "lens-graph", "emergence-graph"})
    assert not [name for name in second if name.endswith("-wanted")]


def test_a_dropped_answer_is_made_up_for_by_the_next(page: DashClient, run_ref: RunRef) -> None:
    here = Selection(attempt=1, row=3, pos=2, layer=2)
    first = page.answer("drawn.data", {"scheme.data"}, stores(run_ref, here))
    drawn = first["drawn"]["data"]
    reports = [{"to": "pos=1", "n": 1}, {"to": "layer=5", "n": 2}]
    both = page.answer(
        "drawn.data",
        {"events.data"},
        stores(run_ref, here, drawn=drawn, events={"reports": reports}),
    )
    assert "In layer 5" in both["attention-subtitle"]["children"]
    assert "tokens-strip" in both


def test_what_is_shown_is_not_sent_again(page: DashClient, run_ref: RunRef) -> None:
    here = Selection(attempt=1, row=3, pos=2, layer=2)
    first = page.answer("drawn.data", {"scheme.data"}, stores(run_ref, here))
    same = stores(run_ref, here, drawn=first["drawn"]["data"])
    assert page.answer("drawn.data", {"scheme.data"}, same) == {}
    higher = stores(run_ref, here, drawn=first["drawn"]["data"], events=report("row=4"))
    second = page.answer("drawn.data", {"events.data"}, higher)
    assert "lens-inspector" in second
    assert "attention-graph" not in second  # drawn for the new cell, and equal


def test_a_memoised_run_is_adopted_and_drawn_by_the_answer_to_its_request(
    page: DashClient, run_ref: RunRef
) -> None:
    here = Selection(model=run_ref.model, prompt=run_ref.prompt, new=2, attempt=1)
    form = {"model": run_ref.model, "prompt": "capital of", "new": "1", "template": "off"}
    asked = {"reports": [{"form": form, "from": "run-button", "n": 1}]}
    found = page.answer("drawn.data", {"events.data"}, stores(run_ref, here, events=asked))
    assert found["run"]["data"]["prompt"] == "capital of"
    assert found["run"]["data"]["attempt"] == 2
    assert set(found) >= VIEWS_OF_A_CELL
    assert "asked" not in found  # no job


def test_a_new_run_starts_a_job_and_ends_in_the_same_callback(
    service: FakeService, settings: Settings, run_ref: RunRef
) -> None:
    page = DashClient(create_app(service, settings))
    here = Selection(model=run_ref.model, prompt=run_ref.prompt, new=2, attempt=1)
    form = {"model": run_ref.model, "prompt": "capital of", "new": "1", "template": "off"}
    asked = {"reports": [{"form": form, "from": "run-button", "n": 1}]}
    found = page.answer("drawn.data", {"events.data"}, stores(run_ref, here, events=asked))
    assert found["asked"]["data"]["prompt"] == "capital of"
    assert "run" not in found
    wanted = here.model_copy(update={"prompt": "capital of", "new": 1, "attempt": 2})
    status = {"attempt": 2, "run": {**run_ref.model_dump(), "attempt": 2}}
    ended = page.answer("drawn.data", {"status.data"}, stores(run_ref, wanted, status=status))
    assert ended["run"]["data"]["attempt"] == 2


def test_every_button_that_starts_a_job_waits_until_its_press_is_heard(
    page: DashClient, service: FakeService, settings: Settings, run_ref: RunRef
) -> None:
    """A press before the page has its selection, or the run that the job needs, would be lost."""
    app = create_app(service, settings)
    jobs = [one for one in app.callback_map.values() if one.get("background")]
    starts = {one["id"] for job in jobs for one in job["inputs"] if one["property"] == "n_clicks"}
    assert len(starts) > 15
    disabled = [one for one in components(app.layout()) if getattr(one, "disabled", False)]
    assert starts <= {getattr(one, "id", None) for one in disabled}
    opened = DashClient(app).answer("drawn.data", {"scheme.data"}, {"scheme.data": "light"})
    free = {name for name in starts if opened.get(name) == {"disabled": False}}
    assert {"tasks-run", "compare-continue"} <= free
    assert free.isdisjoint({"flow-check-cut", "emergence-commit", "model-start", "weights-start"})
    mark = {"starts": opened["drawn"]["data"]["starts"]}
    held = stores(run_ref, Selection(attempt=1), drawn=mark)
    shown = page.answer("drawn.data", {"scheme.data"}, held)
    assert {name for name in starts if "disabled" in shown.get(name, {})} == starts - free
    again = page.answer(
        "drawn.data", {"scheme.data"}, {**held, "drawn.data": shown["drawn"]["data"]}
    )
    assert starts.isdisjoint(again)  # from now on the jobs enable and disable their buttons


# One drawing


def draw_pattern(service: Any, run: RunRef, selection: Selection) -> str:
    try:
        return f"layer {service.ask(trace_of(run), PatternSpec(selection.layer or 0)).layer}"
    except Exception as error:  # noqa: BLE001 - as a view does
        return str(error)


PATTERN = Drawing("pattern", (Output("pattern", "children"),), draw_pattern, parts=(PageId.FOCUS,))
LAYER_3 = Selection(attempt=1, layer=3)


def drawn(service: FakeService, run: RunRef, drawing: Drawing = PATTERN, **page: Any) -> Answer:
    return draw_changed((drawing,), service, PageState(run, LAYER_3, **page))


def test_a_missing_result_is_computed_and_then_drawn(service: FakeService, run_ref: RunRef) -> None:
    first = drawn(service, run_ref)
    assert first.values == {}
    assert service.calls == ["peek"]
    wanted = {"pattern": job_key(PATTERN, run_ref, LAYER_3)}
    assert first.wanted == wanted
    again = drawn(service, run_ref, drawn=first.drawn, wanted=wanted)
    assert (again.values, again.wanted) == ({}, {})  # it is computed already
    ready = {"pattern": compute(PATTERN, service, PageState(run_ref, LAYER_3))}
    last = drawn(service, run_ref, drawn=first.drawn, wanted=wanted, ready=ready)
    assert last.values == {"pattern": ("layer 3",)}
    assert last.wanted == {}


def test_a_result_that_the_memo_cannot_store_is_drawn(
    service: FakeService, run_ref: RunRef
) -> None:
    ready = {"pattern": compute(PATTERN, service, PageState(run_ref, LAYER_3))}
    service.memo.clear()
    assert drawn(service, run_ref, ready=ready).values == {"pattern": ("layer 3",)}


def test_a_problem_of_the_computation_is_drawn_and_not_repeated(
    service: FakeService, run_ref: RunRef
) -> None:
    service.fail["pattern"] = WorkerStoppedError("The worker stopped.", "Run it again.")
    ready = {"pattern": compute(PATTERN, service, PageState(run_ref, LAYER_3))}
    calls = service.calls.count("pattern")
    found = drawn(service, run_ref, ready=ready)
    assert "The worker stopped." in found.values["pattern"][0]
    assert service.calls.count("pattern") == calls


def test_a_result_for_another_selection_is_ignored(service: FakeService, run_ref: RunRef) -> None:
    elsewhere = LAYER_3.model_copy(update={"layer": 1})
    ready = {"pattern": compute(PATTERN, service, PageState(run_ref, elsewhere))}
    found = drawn(service, run_ref, ready=ready)
    assert found.values == {}
    assert found.wanted


def test_a_late_result_of_an_older_job_does_not_hide_the_newer_one(
    service: FakeService, run_ref: RunRef
) -> None:
    """Its arrival replaces the newer result, and Dash drops the answer that would have drawn it."""
    first = drawn(service, run_ref)
    wanted = {"pattern": job_key(PATTERN, run_ref, LAYER_3)}
    compute(PATTERN, service, PageState(run_ref, LAYER_3))
    elsewhere = LAYER_3.model_copy(update={"layer": 1})
    late = {"pattern": compute(PATTERN, service, PageState(run_ref, elsewhere))}
    found = drawn(service, run_ref, drawn=first.drawn, wanted=wanted, ready=late)
    assert found.values == {"pattern": ("layer 3",)}


def test_an_unneeded_job_is_ended_and_an_ended_one_is_left(
    service: FakeService, run_ref: RunRef
) -> None:
    service.ask(trace_of(run_ref), PatternSpec(3))
    assert drawn(service, run_ref, wanted={"pattern": "other"}).wanted == {"pattern": None}
    done = {"pattern": {"of": "other"}}
    assert drawn(service, run_ref, wanted={"pattern": "other"}, ready=done).wanted == {}


def test_a_defect_of_one_drawing_leaves_the_others(
    service: FakeService, run_ref: RunRef, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> str:
        raise ZeroDivisionError("secret")

    service.ask(trace_of(run_ref), PatternSpec(3))
    defect = Drawing("broken", (Output("broken", "children"),), broken)
    found = draw_changed((defect, PATTERN), service, PageState(run_ref, LAYER_3))
    assert found.values == {"pattern": ("layer 3",)}
    assert "secret" not in str(found.problems)
    assert "secret" in caplog.text


def test_a_drawing_with_a_job_gets_its_result_and_says_what_is_missing(
    service: FakeService, run_ref: RunRef
) -> None:
    told: list[Any] = []

    def draw(_service: Any, _run: RunRef, _selection: Selection, ready: Any, note: Any) -> Shown:
        told.append((ready, note))
        return Shown(("a", "b"), complete=ready is not None, note="shown")

    part = Drawing(
        "part", (Output("a", "children"), Output("b", "children")), draw,
        parts=(PageId.FOCUS,), job=JobStart.AUTOMATIC, notes=True,
    )  # fmt: skip
    first = drawn(service, run_ref, part)
    key = job_key(part, run_ref, LAYER_3)
    assert first.wanted == {"part": key}
    ready = {"part": {"of": key, "done": 1}}
    last = drawn(service, run_ref, part, drawn=first.drawn, wanted=first.wanted, ready=ready)
    # The memo comes first, so that the picture is that of any page; it lacks the result here.
    assert told == [(None, None), (None, "shown"), (ready["part"], "shown")]
    assert last.wanted == {}


def test_a_run_that_the_memo_forgot_is_computed_again(
    service: FakeService, settings: Settings, run_ref: RunRef
) -> None:
    page = DashClient(create_app(service, settings))
    here = Selection(attempt=1, row=3, pos=2, layer=2)
    found = page.answer("drawn.data", {"scheme.data"}, stores(run_ref, here))
    assert {"attention-wanted", "tokens-wanted", "flow-wanted"} <= set(found)
    spec = RunSpec(run_ref.model, run_ref.prompt, new_tokens=run_ref.new)
    assert (run_ref.model, spec) not in service.memo


def test_a_failure_is_shown_in_its_view(
    service: FakeService, settings: Settings, run_ref: RunRef
) -> None:
    page = DashClient(create_app(service, settings))
    here = Selection(attempt=1, row=3, pos=2, layer=2)
    service.fail["pattern"] = refuse("The model file is cut off.", "Fetch it again.")
    found = page.answer("drawn.data", {"scheme.data"}, stores(run_ref, here))
    key = found["attention-wanted"]["data"]
    problem = {"of": key, "problem": ["The model file is cut off.", "Fetch it again.", "id"]}
    shown = page.answer(
        "drawn.data", {"attention-ready.data"}, stores(run_ref, here, attention_ready=problem)
    )
    assert "The model file is cut off." in text(shown["attention-graph"]["figure"])
