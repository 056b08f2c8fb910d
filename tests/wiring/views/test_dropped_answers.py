"""No late or dropped response undoes or loses a user's action.

Dash drops a response when it calls the callback again, and gives the second call only its own
trigger. So a callback must also do the work of an earlier, dropped call. And a user may have
changed a control since the request that would set it.
"""

from __future__ import annotations

from typing import Any

import pytest

from analysis.lens.specs import DisagreementSpec, LensSpec
from analysis.tracing.specs import RunSpec
from dash_app.app import VIEWS, create_app
from dash_app.jobs.job_and_draw import BUSY, announce
from dash_app.settings import Settings
from dash_app.state.context import Drawing, split, trace_of
from dash_app.state.drawings import job_key
from dash_app.state.selection import RunRef, Selection
from dash_app.views import disagreement, heatmap
from dash_app.views import disagreement as comparison
from dash_app.views.flow import actions as flow
from dash_app.views.flow import actions as flow_view
from dash_app.views.tasks import actions
from dash_app.views.tasks.reports import EVERY
from tests.support.dash_client import DashClient
from tests.support.fake_service import FakeService, refuse
from tests.wiring.test_app import components
from tests.wiring.views.test_disagreement_and_reports import Untied


@pytest.fixture(autouse=True)
def no_lens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.learned.library.available", lambda _name: None)


def held(run: RunRef, selection: Selection, **more: Any) -> dict[str, Any]:
    """The page's stores."""
    stores = {f"{part}.data": data for part, data in split(selection).items()}
    further = {f"{name.replace('_', '-')}.data": value for name, value in more.items()}
    return {**stores, "run.data": run.model_dump(), "scheme.data": "light", **further}


def job(drawing: Drawing, run: RunRef, selection: Selection, result: Any) -> dict[str, Any]:
    """The result of a drawing's job, as its store holds it."""
    return {**result, "of": job_key(drawing, run, selection)}


class TestHeatmap:
    """A cell's column is computed although the call for it was dropped."""

    @pytest.fixture
    def page(self, service: FakeService, settings: Settings) -> DashClient:
        return DashClient(create_app(service, settings))

    def answer(self, page: DashClient, run: RunRef, selection: Selection, **more: Any) -> Any:
        found = page.answer("lens-wanted.data", {"scheme.data"}, held(run, selection, **more))
        return found.get("lens-wanted", {}).get("data", "as it was")

    def test_a_pin_after_a_new_grid_still_requests_it(
        self, page: DashClient, run_ref: RunRef
    ) -> None:
        undecoded = Selection(attempt=1, norm="unit", pins=(5,))
        wanted = self.answer(page, run_ref, undecoded)
        assert wanted == job_key(heatmap.HEATMAP, run_ref, undecoded)
        again = self.answer(page, run_ref, undecoded, lens_wanted=wanted)
        assert again == "as it was"  # it was requested; a cancelled job does not start again

    def test_existing_results_are_not_requested_again(
        self, page: DashClient, service: FakeService, run_ref: RunRef
    ) -> None:
        service.ask(trace_of(run_ref), LensSpec())
        service.ask(run_ref.model, RunSpec(run_ref.model, run_ref.prompt, new_tokens=run_ref.new))
        assert self.answer(page, run_ref, Selection(attempt=1)) == "as it was"
        running = self.answer(page, run_ref, Selection(attempt=1), lens_wanted="another")
        assert running is None  # which ends the job of another cell


class TestDisagreement:
    """A move of the cell keeps the picture only if the picture is right."""

    @pytest.fixture
    def service(self) -> Untied:
        return Untied()

    @pytest.fixture
    def page(self, service: Untied, settings: Settings) -> DashClient:
        return DashClient(create_app(service, settings))

    def answer(self, page: DashClient, run: RunRef, selection: Selection, **more: Any) -> Any:
        return page.answer("drawn.data", {"scheme.data"}, held(run, selection, **more))

    def test_a_move_during_the_drawing_does_not_lose_it(
        self, page: DashClient, service: Untied, run_ref: RunRef
    ) -> None:
        service.ask(run_ref.model, RunSpec(run_ref.model, run_ref.prompt, new_tokens=run_ref.new))
        chosen = Selection(attempt=1, row=3, pos=2)
        result = comparison.compute(service, run_ref, chosen, lambda *_: None)
        ready = job(disagreement.DRAWING, run_ref, chosen, result)
        assert any(isinstance(spec, DisagreementSpec) for _, spec in service.memo)
        moved = self.answer(page, run_ref, chosen, disagreement_ready=ready)
        assert moved["disagreement-graph"]["figure"]["data"]
        values = {"disagreement_ready": ready, "drawn": moved["drawn"]["data"]}
        elsewhere = chosen.model_copy(update={"pos": 3})
        assert "disagreement-graph" not in self.answer(page, run_ref, elsewhere, **values)
        by_best = elsewhere.model_copy(update={"differ": "top1"})
        assert "disagreement-graph" in self.answer(page, run_ref, by_best, **values)


class TestFlow:
    """An error is shown for its graph, whatever the page redraws."""

    def test_a_failure_outlives_a_change_of_theme_and_not_of_the_cell(
        self, service: FakeService, settings: Settings, run_ref: RunRef
    ) -> None:
        page = DashClient(create_app(service, settings))
        chosen = Selection(attempt=1, row=3, pos=2)
        service.fail["flow"] = refuse("It broke.", "Again.")
        result = flow.compute(service, run_ref, chosen, lambda *_: None)
        ready = job(flow_view.GRAPH, run_ref, chosen, result)

        def drawn(selection: Selection) -> str:
            stored = held(run_ref, selection, flow_ready=ready)
            return str(page.answer("flow-graph.figure", {"scheme.data"}, stored).get("flow-graph"))

        assert "It broke." in drawn(chosen)
        assert drawn(Selection(attempt=1, row=4, pos=2)) == "None"


class TestControls:
    """Only a valid response sets a control, and not to a value that it set before."""

    NOW = Selection(model="m", prompt="Hello", attempt=1)
    FORM = {  # noqa: RUF012 - never written
        "form": {"model": "m", "prompt": "Typed", "new": "4", "template": "on"},
        "from": "run-button",
    }

    @pytest.fixture
    def page(self, service: FakeService, settings: Settings) -> DashClient:
        return DashClient(create_app(service, settings))

    def after(self, page: DashClient, *reports: dict[str, Any]) -> Any:
        numbered = [{**one, "n": n + 1} for n, one in enumerate(reports)]
        stores = {f"{part}.data": data for part, data in split(self.NOW).items()}
        return page.answer(
            "query.data", {"events.data"}, {**stores, "events.data": {"reports": numbered}}
        )

    def test_a_run_uses_the_form_at_the_click(self, page: DashClient) -> None:
        told = self.after(page, self.FORM)
        asked = {"model": "m", "prompt": "Typed", "new": 4, "template": "on", "attempt": 2}
        assert told["request"]["data"].items() >= asked.items()
        assert told["query"]["data"]["set"] == {}  # more may have been typed since

    def test_invalid_form_values_change_nothing(self, page: DashClient) -> None:
        told = self.after(
            page, {"form": {**self.FORM["form"], "prompt": "", "new": "x", "template": 7}}
        )
        asked = {"model": "m", "prompt": "", "new": 1, "template": "off", "attempt": 2}
        assert told["request"]["data"].items() >= asked.items()

    def test_run_and_an_example_apply_in_order(self, page: DashClient) -> None:
        form, example = self.FORM, {"to": "prompt=Example&new=2"}
        told = self.after(page, form, example)
        assert told["request"]["data"]["prompt"] == "Example"
        assert told["query"]["data"]["set"]["run-prompt"] == "Example"
        told = self.after(page, example, form)
        assert told["request"]["data"]["prompt"] == "Typed"
        assert told["query"]["data"]["set"] == {}

    def test_an_example_replaces_a_draft_even_if_it_ran_before(self, page: DashClient) -> None:
        told = self.after(page, {"to": "prompt=Hello&new=1"})
        assert told["query"]["data"]["set"]["run-prompt"] == "Hello"

    def test_a_move_sets_no_control(self, page: DashClient) -> None:
        assert self.after(page, {"to": "row=3&pos=1"})["query"]["data"]["set"] == {}

    def test_everything_is_set_in_the_response_that_may_be_dropped(self, page: DashClient) -> None:
        told = self.after(page, {"to": "layer=3"}, {"to": "prompt=Example"}, {"to": "find=x"})
        assert {"run-prompt", "attention-layer", "lens-find"}.isdisjoint(told)


def test_a_job_can_be_cancelled_when_the_page_knows_it(app: Any) -> None:
    told = app.server.test_client().get("/_dash-dependencies").get_json()
    stops = {one["output"].removesuffix(".id") for one in told if one["output"].endswith(".id")}
    assert len(stops) > 10
    off = {one.id for one in components(app.layout()) if getattr(one, "disabled", False)}
    assert stops <= off
    turned = {name for one in told for name in (one.get("running") or {}).get("running", ())}
    assert turned  # by the start of a job
    assert turned.isdisjoint({f"{stop}.disabled" for stop in stops})
    said: list[Any] = []
    show = announce(said.append)
    show([{"width": "40%"}, "Reading"])
    assert said == [[{"width": "0%"}, "", BUSY, False], [{"width": "40%"}, "Reading", BUSY, False]]


def test_no_job_writes_what_a_drawing_writes(app: Any) -> None:
    """A drawing sends only what differs from what it last sent, so it must be the one writer."""
    jobs = [one["background"] for one in app.callback_map.values() if one.get("background")]
    written = {str(output) for job in jobs for output in job.get("progress", ())}
    for one in app.server.test_client().get("/_dash-dependencies").get_json():
        written |= set((one.get("running") or {}).get("running", ()))
    assert len(written) > 20
    drawn = {str(output) for view in VIEWS for row in view.drawings for output in row.outputs}
    assert len(drawn) > 20
    assert written.isdisjoint(drawn)


class TestTasks:
    """Lists and digits are updated without setting the control that a user may be changing."""

    @pytest.fixture
    def page(self, service: FakeService, settings: Settings) -> DashClient:
        return DashClient(create_app(service, settings))

    def test_a_new_model_keeps_the_digits_that_are_typed(self, page: DashClient) -> None:
        values = {"run-model.value": "smollm2-135m-instruct", "tasks-digits.value": 4}
        told = page.answer("tasks-digits.disabled", {"run-model.value"}, values)
        assert told["tasks-digits"] == {"disabled": False}
        values["run-model.value"] = "addition-5digit"
        told = page.answer("tasks-digits.disabled", {"run-model.value"}, values)
        assert told["tasks-digits"] == {"value": 5, "disabled": True}

    def test_a_report_in_the_memo_opens_with_the_page(
        self, page: DashClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[Any] = []
        monkeypatch.setattr(
            actions, "known", lambda _service, name, form: asked.append((name, form))
        )
        values = {"run-model.value": "m", "suite.data": {"suite": "facts", "prompts": 9}}
        for shown in ("explore", "tasks"):
            values["arrangement.data"] = {"page": shown}
            page.answer("tasks-ready.data", {"arrangement.data"}, values)
            assert bool(asked) == (shown == "tasks")
        assert [name for name, _ in asked] == [report.name for report in EVERY]
        form = asked[0][1]
        assert (form["model"], form["suite"], form["size"]) == ("m", "facts", 9)

    def test_lists_show_the_surroundings_of_the_choice(self, page: DashClient) -> None:
        lists = {"component": "row 0", "place": "", "column": "1"}
        values = {f"tasks-projection-{name}.value": value for name, value in lists.items()}
        values |= {"run-model.value": "smollm2-135m-instruct", "tasks-digits.value": 2}
        told = page.answer("tasks-projection-place.options", {"run.data"}, values)
        assert all(list(told[f"tasks-projection-{name}"]) == ["options"] for name in lists)
        values["tasks-projection-component.value"] = "head 99.0"
        told = page.answer("tasks-projection-place.options", {"run.data"}, values)
        assert told["tasks-projection-component"]["value"] == "row 1"


def test_a_replaced_run_reports_no_end(
    service: FakeService, settings: Settings, run_ref: RunRef
) -> None:
    page = DashClient(create_app(service, settings))
    failed = {"attempt": 1, "problem": ["The prompt is empty.", "Type some text.", "id"]}
    for attempt, shown in ((2, False), (1, True)):
        stored = held(run_ref, Selection(attempt=attempt), status=failed)
        found = page.answer("drawn.data", {"status.data"}, stored)
        assert ("The prompt is empty." in str(found.get("alert"))) == shown
