"""Views with results, clicks and errors; no browser, no Dash server."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import pytest

from analysis.errors import CancelledError, UnknownModelError
from analysis.lens.specs import LensSpec
from analysis.model import catalog
from analysis.tracing.specs import RunSpec, TraceSpec
from analysis.trajectory.specs import StorySpec
from dash_app.errors import explain
from dash_app.page.panel import target
from dash_app.settings import Settings
from dash_app.state import gesture
from dash_app.state.context import Context, Happened, PageId
from dash_app.state.drawings import MemoOnly, NotInMemoError
from dash_app.state.examples import EXAMPLES, QUESTIONS, by_question, examples_for
from dash_app.state.selection import RunRef, Selection
from dash_app.views import attention, curves, run, story, tokens
from dash_app.views.flow import actions as flow
from dash_app.views.run.layout import RunId
from tests.support.components import text
from tests.support.fake_service import FakeService, refuse

MODELS = (("smollm2-135m-instruct", "SmolLM2"),)


def no_job(_start: float, _end: float) -> None:
    return None


@pytest.fixture
def context(service: FakeService, settings: Settings) -> Context:
    return Context(service, settings, MODELS)


def at(**point: Any) -> dict[str, Any]:
    return {"points": [point]}


# Run


def test_a_run_has_a_reference(context: Context, asked: Selection, run_ref: RunRef) -> None:
    status = run.status(context, asked, no_job)
    assert status is not None
    assert RunRef.model_validate(status["run"]) == run_ref
    assert len(json.dumps(status)) < 1000
    assert gesture.adopted(status, asked, None) == run_ref
    assert gesture.adopted(status, asked, run_ref) is run_ref


def test_a_replaced_run_is_not_shown(context: Context, asked: Selection) -> None:
    status = run.status(context, asked, no_job)
    later = asked.model_copy(update={"attempt": 2})
    assert gesture.adopted(status, later, None) is None
    assert gesture.adopted(None, asked, None) is None


def test_a_memoised_run_is_shown_without_a_job(context: Context, asked: Selection) -> None:
    service = context.service
    assert run.remembered(context, asked) is None
    spec = RunSpec(asked.model, asked.prompt, new_tokens=asked.new)
    result = service.memo[spec.model, spec] = service.ask(spec.model, spec)
    trace = TraceSpec(asked.model, result.token_ids)
    assert run.remembered(context, asked) is None
    service.memo[trace, LensSpec()] = service.ask(trace, LensSpec())
    told = StorySpec(result.prompt_length - 1)
    service.memo[trace, told] = service.ask(trace, told)
    assert run.remembered(context, asked) == run.status(context, asked, no_job)
    empty = asked.model_copy(update={"prompt": " "})
    assert run.remembered(context, empty) is None


def test_a_long_prompt_opens_with_its_last_column(context: Context, asked: Selection) -> None:
    long = asked.model_copy(update={"prompt": "word " * 40})
    service = context.service
    reference = RunRef.model_validate((run.status(context, long, no_job) or {})["run"])
    asked_for = [spec for _, spec in service.memo if isinstance(spec, LensSpec)]
    assert asked_for == [LensSpec(positions=(reference.prompt_length - 1,))]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": ""}, "The prompt is empty"),
        ({"prompt": " \n"}, "The prompt is empty"),
        ({"model": "nope"}, "does not offer the model 'nope'"),
        ({"model": "/etc"}, "does not offer the model"),
        ({"new": 9999}, "9999 new tokens"),
        ({"prompt": "word " * 400}, "The prompt has 400 tokens"),
    ],
)
def test_invalid_requests_give_messages(
    context: Context, asked: Selection, change: dict[str, Any], said: str
) -> None:
    status = run.status(context, asked.model_copy(update=change), no_job)
    assert status is not None
    assert said in status["problem"][0]
    assert status["problem"][1]
    assert said in text(run.messages(context, Happened(ended=status), asked))


def test_a_defect_shows_no_detail(
    context: Context, service: FakeService, asked: Selection, caplog: pytest.LogCaptureFixture
) -> None:
    service.fail["run"] = KeyError("internal")
    with caplog.at_level(logging.ERROR):
        status = run.status(context, asked, no_job)
    assert status is not None
    message, _, request = status["problem"]
    assert "internal" not in text(run.messages(context, Happened(ended=status), asked))
    assert "went wrong" in message
    assert request in {record.event["request"] for record in caplog.records}  # type: ignore[attr-defined]
    assert "internal" in caplog.text


def test_a_cancelled_run_reports_nothing_later(
    context: Context, service: FakeService, asked: Selection
) -> None:
    service.fail["decode"] = CancelledError()
    assert run.status(context, asked, no_job) is None


def test_messages_that_are_shown_at_once(
    context: Context, asked: Selection, run_ref: RunRef
) -> None:
    assert "Cancelled" in text(run.messages_at_once(frozenset({RunId.CANCEL})))
    assert run.messages_at_once(frozenset({PageId.DISMISS})) == []
    assert run.messages(context, Happened(requested=True), asked) == []
    assert "colour" in text(run.messages(context, Happened(ignored=("colour",)), asked))
    assert run.messages(context, Happened(), asked) is None
    refused = Happened(refused="The prompt has 20,001 characters.", shown=run_ref)
    assert "The views still show “The capital of France is”." in text(
        run.messages(context, refused, asked)
    )
    other = asked.model_copy(update={"model": "gpt2"})
    assert "The views still show “The capital of France is” on smollm2-135m-instruct." in text(
        run.messages(context, refused, other)
    )
    defect = explain(KeyError("internal"))
    shown = text(run.messages(context, Happened(problems=(defect,)), asked))
    assert defect.request in shown
    assert "internal" not in shown


def test_an_unusable_memo_is_reported(context: Context, asked: Selection) -> None:
    context.service.problem = "The memo is full."
    status = run.status(context, asked, no_job)
    assert "The memo is full." in text(run.messages(context, Happened(ended=status), asked))
    failed = {"attempt": 1, "problem": ["It broke.", "Again.", "abc"]}
    both = text(run.messages(context, Happened(("pos",), ended=failed), asked))
    assert all(said in both for said in ("It broke.", "pos", "The memo is full."))


def test_an_address_over_the_limits_is_reported(context: Context, asked: Selection) -> None:
    status = run.status(context, asked, no_job)
    beyond = asked.model_copy(update={"pos": 77})
    shown = text(run.messages(context, Happened(("foo",), ended=status), beyond))
    assert "foo" in shown
    assert "pos" in shown


# The other views, one by one


def test_the_sentence_selects_what_it_names(service: FakeService, run_ref: RunRef) -> None:
    shown = text(story.draw(service, run_ref, Selection()))
    assert "row=7&layer=6&pos=4" in shown
    assert "heads=3" in shown


def test_tokens_are_buttons_with_alternatives(service: FakeService, run_ref: RunRef) -> None:
    shown = tokens.draw(service, run_ref, Selection(pos=2))
    assert len(shown) == 7
    assert text(shown).count("is-selected") == 1
    assert "is-selected" in text(shown[2])
    assert "is-next" in text(shown[3])
    assert "is-answer" in text(shown[5])
    assert "pins=5," in text(shown[5])
    assert "token-alternatives" not in text(shown[4])


def test_heads_are_ordered_by_the_norm_of_their_output(
    service: FakeService, run_ref: RunRef
) -> None:
    figure, heads, line, _ = attention.draw(service, run_ref, Selection(heads=(2,)), "dark")
    shares = [float(h.children[1].children.rstrip(" %")) for h in heads[1:]]
    assert shares == sorted(shares, reverse=True)
    assert "reads" in line
    assert figure["layout"]["meta"]["layer"] == 10
    assert text(heads).count("is-selected") == 1


def test_a_click_in_the_pattern_chooses_query_and_layer(run_ref: RunRef) -> None:
    after = attention.select_clicked(at(x=1, y=3), Selection(layer=6), run_ref)
    assert (after.pos, after.layer, after.row) == (3, 6, 7)
    assert after.link == "attention:6:1:3:-1"
    two = Selection(layer=6, heads=(2, 5))
    clicked = attention.select_clicked(at(x=1, y=3, curveNumber=1), two, run_ref)
    assert clicked.link == "attention:6:1:3:5"
    ahead = attention.select_clicked(at(x=3, y=1), Selection(layer=6), run_ref)
    assert (ahead.pos, ahead.link) == (1, "")  # no token reads a later one


def test_a_click_on_a_curve_chooses_the_row_and_the_layer_that_writes_it() -> None:
    after = curves.select_clicked(at(x=6, y=0.4), Selection(pos=3, layer=9), None)
    assert (after.row, after.layer) == (6, 5)
    assert curves.select_clicked(at(x=0, y=0.4), Selection(pos=3), None).layer == 0


def test_the_flow_is_drawn_when_it_is_computed(service: FakeService, run_ref: RunRef) -> None:
    selection = Selection(row=9, pos=3, method="proximity")
    with pytest.raises(NotInMemoError):
        flow.draw(MemoOnly(service, NotInMemoError()), run_ref, selection, "light", None)
    ready = flow.compute(service, run_ref, selection, no_job)
    drawn = flow.draw(service, run_ref, selection, "light", ready)
    assert "% of the flow" in drawn.line
    count = service.calls.count("flow")
    flow.draw(service, run_ref, selection, "dark", None)
    assert service.calls.count("flow") == count


def test_the_bottom_has_no_flow(service: FakeService, run_ref: RunRef) -> None:
    bottom = Selection(row=0, method="proximity")
    drawn = flow.draw(service, run_ref, bottom, "light", None)
    assert "nothing flows into it" in text(drawn[0])
    assert flow.compute(service, run_ref, bottom, no_job) == {"done": None}


@pytest.mark.parametrize("name", ["run", "pattern", "story"])
def test_an_error_in_a_view_is_shown_in_the_view(
    service: FakeService, run_ref: RunRef, name: str
) -> None:
    service.fail[name] = refuse("The model file is cut off.", "Fetch it again.")
    selection = Selection(row=4)
    shown = {
        "run": tokens.draw(service, run_ref, selection),
        "pattern": attention.draw(service, run_ref, selection, "light"),
        "story": story.draw(service, run_ref, selection),
    }[name]
    assert "The model file is cut off." in text(shown)


def test_an_error_in_the_flow_is_shown_in_the_flow(service: FakeService, run_ref: RunRef) -> None:
    service.fail["flow"] = refuse()
    ready = flow.compute(service, run_ref, Selection(row=4), no_job)
    drawn = flow.draw(service, run_ref, Selection(row=4), "light", ready)
    assert "The model file is cut off." in text(drawn[0])


# Small parts


def test_errors_have_an_id_and_a_hint() -> None:
    told = explain(UnknownModelError("No model is called 'x'.", "Pick one."))
    assert (told.message, told.hint) == ("No model is called 'x'.", "Pick one.")
    assert len(told.request) == 8
    assert explain(RuntimeError("x")).request != told.request


def test_the_page_parses_its_own_targets() -> None:
    assert target(row=3, pins=(1, 2)) == "row=3&pins=1,2"
    assert target(heads=()) == "heads=none"


def test_examples_of_a_model_that_adds_are_sums() -> None:
    offered = examples_for("addition-5digit")
    assert len(offered) > 1
    for example in offered:
        assert re.fullmatch(r"\d{5}\+\d{5}=", example.prompt), example
    assert examples_for(MODELS[0][0]) == EXAMPLES


def test_examples_are_grouped_by_question_without_loss() -> None:
    for name in ("addition-5digit", MODELS[0][0]):
        grouped = by_question(name)
        assert [each for each in QUESTIONS if each in grouped] == list(grouped)
        assert all(grouped.values())
        listed = [one for group in grouped.values() for one in group]
        assert sorted(listed, key=str) == sorted(examples_for(name), key=str)
    assert list(by_question(MODELS[0][0])) == list(QUESTIONS)


def test_an_example_that_needs_another_model_names_one_on_offer() -> None:
    assert {one.model for one in EXAMPLES} - {""} <= {one.name for one in catalog.entries()}


def test_examples_can_be_run(context: Context) -> None:
    for example in EXAMPLES:
        asked = Selection(model=MODELS[0][0], prompt=example.prompt, new=example.new, attempt=1)
        status = run.status(context, asked, no_job)
        assert status is not None
        assert "run" in status, example
