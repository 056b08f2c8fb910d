"""What one page has drawn is sent to another page that asks for the same, and to no other."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from dash import Output, html, no_update
from plotly.io.json import to_json_plotly

from analysis.tracing.specs import PatternSpec
from dash_app.errors import explain
from dash_app.page.thin_layout import Inert, thin
from dash_app.state.context import Drawing, JobStart, PageId, Shown, trace_of
from dash_app.state.drawings import Answer, PageState, Pictures, draw_changed, job_key
from dash_app.state.selection import RunRef, Selection
from tests.support.fake_service import FakeService

HERE = Selection(attempt=1, layer=3)
OPTIONAL = PatternSpec(5)


class Table:
    """One drawing that counts how often it is drawn; its value has all that it depends on."""

    def __init__(self, **options: Any) -> None:
        self.count = 0
        self.drawing = Drawing(
            "pattern", (Output("pattern", "children"),), self.draw, parts=(PageId.FOCUS,),
            controls={"order": "the-order"}, theme=True, **options,
        )  # fmt: skip

    def draw(self, service: Any, run: RunRef, selection: Selection, **further: Any) -> Any:
        self.count += 1
        found = service.ask(trace_of(run), PatternSpec(selection.layer or 0))
        return [run.prompt, found.layer, further["order"], further["theme"]]


def ask(
    table: Table,
    pictures: Pictures,
    service: FakeService,
    run: RunRef,
    selection: Selection = HERE,
    **page: Any,
) -> Answer:
    state = {"scheme": "light", "controls": {"the-order": "size"}, **page}
    return draw_changed((table.drawing,), service, PageState(run, selection, **state), pictures)


@pytest.fixture
def pictures() -> Pictures:
    return Pictures(thin)


@pytest.fixture
def memo(service: FakeService, run_ref: RunRef) -> FakeService:
    for layer in (3, 4):
        service.ask(trace_of(run_ref), PatternSpec(layer))
    return service


def test_another_request_for_the_same_run_gets_the_same_picture(
    memo: FakeService, pictures: Pictures, run_ref: RunRef
) -> None:
    table, later = Table(), run_ref.model_copy(update={"attempt": 7})
    first = ask(table, pictures, memo, run_ref)
    memo.memo.clear()  # the second picture needs no result
    second = ask(table, pictures, memo, later, Selection(attempt=7, layer=3))
    assert table.count == 1
    assert first.values == second.values == {"pattern": ([run_ref.prompt, 3, "size", "light"],)}
    assert second.wanted == {}
    shown = ask(table, pictures, memo, later, Selection(attempt=8, layer=3), drawn=second.drawn)
    assert shown.values in ({}, {"pattern": (no_update,)})  # the page has it


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"selection": Selection(attempt=1, layer=4)}, 4),
        ({"controls": {"the-order": "layer"}}, "layer"),
        ({"scheme": "dark"}, "dark"),
        ({"prompt": "Another prompt"}, "Another prompt"),
    ],
)
def test_whatever_differs_is_drawn_anew(
    memo: FakeService, pictures: Pictures, run_ref: RunRef, change: dict[str, Any], expected: Any
) -> None:
    table = Table()
    ask(table, pictures, memo, run_ref)
    run = run_ref.model_copy(update={"prompt": change.pop("prompt", run_ref.prompt)})
    found = ask(table, pictures, memo, run, **change)
    assert table.count == 2
    assert expected in found.values["pattern"][0]


def test_other_files_of_the_model_or_of_the_view_make_another_picture(
    memo: FakeService, pictures: Pictures, run_ref: RunRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["one"]
    table = Table(files=lambda: list(names))
    ask(table, pictures, memo, run_ref)
    ask(table, pictures, memo, run_ref)
    assert table.count == 1
    names.append("two")
    ask(table, pictures, memo, run_ref)
    assert table.count == 2
    monkeypatch.setattr(memo, "version", lambda model: f"{model}, trained further")
    ask(table, pictures, memo, run_ref)
    assert table.count == 3


def test_a_picture_that_lacked_a_result_is_drawn_anew_once_it_is_there(
    memo: FakeService, pictures: Pictures, run_ref: RunRef
) -> None:
    table, draw = Table(), Table.draw

    def with_optional(service: Any, run: RunRef, selection: Selection, **further: Any) -> Any:
        more = service.peek(trace_of(run), OPTIONAL)
        return [*draw(table, service, run, selection, **further), more is not None]

    table.drawing = replace(table.drawing, draw=with_optional)
    for _ in range(2):
        assert ask(table, pictures, memo, run_ref).values["pattern"][0][-1] is False
    assert table.count == 1
    memo.ask(trace_of(run_ref), OPTIONAL)
    assert ask(table, pictures, memo, run_ref).values["pattern"][0][-1] is True
    assert table.count == 2


def test_a_picture_without_a_result_that_is_computed_still_starts_the_job(
    memo: FakeService, pictures: Pictures, run_ref: RunRef
) -> None:
    table, draw = Table(job=JobStart.AUTOMATIC), Table.draw

    def partly(service: Any, run: RunRef, selection: Selection, **further: Any) -> Any:
        more = service.peek(trace_of(run), OPTIONAL)
        found = [*draw(table, service, run, selection, **further), more is not None]
        return Shown(found, complete=more is not None)

    table.drawing = replace(table.drawing, draw=partly)
    wanted = {"pattern": job_key(table.drawing, run_ref, HERE)}
    for _ in range(2):
        answer = ask(table, pictures, memo, run_ref)
        assert (answer.values["pattern"][0][-1], answer.wanted) == (False, wanted)
    assert table.count == 1
    memo.ask(trace_of(run_ref), OPTIONAL)
    answer = ask(table, pictures, memo, run_ref)
    assert (answer.values["pattern"][0][-1], answer.wanted) == (True, {})
    assert table.count == 2


def unfinished(_service: Any, found: Any) -> Any:
    return Shown(found, complete=False)


def failed(_service: Any, found: Any) -> Any:
    return [*found, explain(ValueError("a full disk")).message]


def with_other_facts(service: Any, found: Any) -> Any:
    return [*found, service.problem]


@pytest.mark.parametrize("ends", [unfinished, failed, with_other_facts])
def test_what_may_look_different_next_time_is_not_kept(
    memo: FakeService, pictures: Pictures, run_ref: RunRef, ends: Callable[..., Any]
) -> None:
    table, draw = Table(), Table.draw
    table.drawing = replace(
        table.drawing,
        draw=lambda service, run, selection, **further: ends(
            service, draw(table, service, run, selection, **further)
        ),
    )
    ask(table, pictures, memo, run_ref)
    ask(table, pictures, memo, run_ref)
    assert table.count == 2


def test_pictures_of_edited_runs_are_not_kept(
    memo: FakeService, pictures: Pictures, run_ref: RunRef
) -> None:
    table = Table()
    edited = run_ref.model_copy(update={"edits": ("ablate:head_output:1:0:all:zero",)})
    memo.ask(trace_of(edited), PatternSpec(3))
    for _ in range(2):
        ask(table, pictures, memo, edited)
    assert table.count == 2


def after_job(table: Table, run: RunRef, **further: Any) -> dict[str, Any]:
    """The stores of a page whose job has passed on a result."""
    return {"pattern": {"of": job_key(table.drawing, run, HERE), **further}}


@pytest.mark.parametrize("job", [JobStart.NONE, JobStart.AUTOMATIC])
def test_the_picture_after_a_job_is_kept_for_pages_that_open_later(
    memo: FakeService, pictures: Pictures, run_ref: RunRef, job: JobStart
) -> None:
    table = Table(job=job)
    first = ask(table, pictures, memo, run_ref, ready=after_job(table, run_ref, done=True))
    memo.memo.clear()
    assert ask(table, pictures, memo, run_ref).values == first.values
    again = ask(table, pictures, memo, run_ref, ready=after_job(table, run_ref, done=True))
    assert again.values == first.values
    assert table.count == 1


@pytest.mark.parametrize(
    ("job", "result", "has_result"),
    [
        (JobStart.AUTOMATIC, {"part": "the first column"}, True),
        (JobStart.AUTOMATIC, {"problem": ["No memory.", "", ""]}, True),
        (JobStart.ON_REQUEST, {"done": True}, True),
        (JobStart.AUTOMATIC, {"done": True}, False),  # the memo was unable to store it
    ],
)
def test_other_pictures_of_jobs_are_not_kept(
    memo: FakeService,
    pictures: Pictures,
    run_ref: RunRef,
    job: JobStart,
    result: dict[str, Any],
    has_result: bool,
) -> None:
    table = Table(job=job)
    seen: list[Any] = []

    def draw(service: Any, run: RunRef, _selection: Selection, ready: Any, **_: Any) -> Any:
        if not has_result:
            service.ask(trace_of(run), OPTIONAL)
            memo.memo.clear()
        seen.append(ready)
        return "drawn"

    table.drawing = replace(table.drawing, draw=draw)
    ready = after_job(table, run_ref, **result)
    for _ in range(2):
        assert ask(table, pictures, memo, run_ref, ready=ready).values == {"pattern": ("drawn",)}
    assert seen == [ready["pattern"]] * 2


def test_a_picture_that_leaves_out_a_value_is_for_pages_that_have_it(
    memo: FakeService, pictures: Pictures, run_ref: RunRef
) -> None:
    notes: list[Any] = []

    def draw(_service: Any, run: RunRef, _selection: Selection, note: Any, **_: Any) -> Shown:
        notes.append(note)
        return Shown(no_update if note == run.prompt else [run.prompt], note=run.prompt)

    table = Table(notes=True)
    table.drawing = replace(table.drawing, draw=draw)

    def of_page_with(note: Any) -> Any:
        drawn = {"pattern": {"key": "", "values": [None], "note": note}}
        return ask(table, pictures, memo, run_ref, drawn=drawn).values["pattern"][0]

    whole = [run_ref.prompt]
    assert of_page_with(None) == whole
    assert of_page_with("another prompt") == whole
    assert notes == [None]
    for _ in range(2):
        assert of_page_with(run_ref.prompt) is no_update
    assert of_page_with(None) == whole
    assert notes == [None, run_ref.prompt]


def test_values_are_kept_as_plain_json_without_components(
    memo: FakeService, pictures: Pictures, run_ref: RunRef
) -> None:
    table = Table()
    table.drawing = replace(table.drawing, draw=lambda *_, **__: html.P(["a", html.B("<b>")]))
    (first,) = ask(table, pictures, memo, run_ref).values["pattern"]
    (second,) = ask(table, pictures, memo, run_ref).values["pattern"]
    assert isinstance(first, Inert)
    assert second == first.to_plotly_json()
    assert second["props"]["tree"][0]["children"][1]["children"] == ["<b>"]


def test_pictures_take_a_bounded_amount_of_memory(memo: FakeService, run_ref: RunRef) -> None:
    table, small = Table(), Pictures(limit=3000)
    noise = random.Random(0).randbytes(500).hex()  # noqa: S311 - it hardly gets smaller

    def draw(_service: Any, _run: RunRef, selection: Selection, **further: Any) -> list[Any]:
        return [*table.draw(memo, run_ref, HERE, **further), selection.layer, noise]

    table.drawing = replace(table.drawing, draw=draw)
    layers = [Selection(attempt=1, layer=layer) for layer in range(3)]
    for selection in (*layers, layers[2], layers[0]):
        ask(table, small, memo, run_ref, selection)
    assert table.count == 4  # the first one was dropped, the last one was kept


def test_a_picture_comes_back_unchanged(
    memo: FakeService, pictures: Pictures, run_ref: RunRef
) -> None:
    table, picture = Table(), {"z": np.arange(3.0), "text": "é \U0001f600 <b>", "x": [1, None]}
    table.drawing = replace(table.drawing, draw=lambda *_, **__: picture)
    ask(table, pictures, memo, run_ref)
    (found,) = ask(table, pictures, memo, run_ref).values["pattern"]
    assert found == json.loads(to_json_plotly(picture))
    assert found["text"] == picture["text"]
