"""What every click, key and address does to the selection."""

from __future__ import annotations

from typing import Any

import pytest

from dash_app.state.context import EventHandler, PageId, from_query, read_run
from dash_app.state.selection import RunRef, Selection
from dash_app.state.update import (
    Event,
    address_note,
    changed_parts,
    new_reports,
    notices,
    reduce,
    reduce_all,
)

BASE = Selection(model="m", prompt="Hello", new=1)
NOW = Selection(model="m", prompt="Hello", new=1, attempt=1)


def happened(component: str, prop: str, value: Any) -> Event:
    return Event(component, prop, value)


def go(to: str) -> Event:
    return happened(PageId.EVENTS, "data", {"to": to, "n": 1})


def test_a_page_without_query_requests_the_example() -> None:
    reduced = reduce(happened(PageId.URL, "search", ""), Selection(), None, BASE, ())
    assert reduced.selection == NOW
    assert set(changed_parts(Selection(), reduced.selection)) >= {"request", "cell", "theme"}


def test_an_address_is_opened_with_its_selection() -> None:
    address = "?prompt=Hi&row=3&pins=none&nonsense=1"
    reduced = reduce(happened(PageId.URL, "search", address), Selection(), None, BASE, ())
    assert (reduced.selection.prompt, reduced.selection.row) == ("Hi", 3)
    assert reduced.selection.pins == ()
    assert reduced.ignored == ("nonsense",)


def test_the_same_request_is_not_sent_twice() -> None:
    back = happened(PageId.EVENTS, "data", {"url": "?row=2", "n": 3})
    reduced = reduce(back, NOW, None, BASE, ())
    assert (reduced.selection.attempt, reduced.selection.row) == (1, 2)


def test_going_back_to_another_prompt_runs_it_again() -> None:
    back = happened(PageId.EVENTS, "data", {"url": "?prompt=Other", "n": 3})
    assert reduce(back, NOW, None, BASE, ()).selection.attempt == 2


def test_a_button_changes_only_what_it_names() -> None:
    reduced = reduce(go("row=4&pos=2"), NOW.model_copy(update={"theme": "dark"}), None, BASE, ())
    assert (reduced.selection.row, reduced.selection.pos) == (4, 2)
    assert reduced.selection.theme == "dark"
    assert changed_parts(NOW, reduced.selection).keys() == {"cell", "theme"}


def test_an_example_is_a_new_request() -> None:
    reduced = reduce(go("prompt=2+%2B+2&new=3"), NOW, None, BASE, ())
    assert (reduced.selection.prompt, reduced.selection.new) == ("2 + 2", 3)
    assert reduced.selection.attempt == 2


@pytest.mark.parametrize("value", [{"to": "row=up"}, {"to": ""}, {}, None])
def test_a_button_with_invalid_data_changes_nothing(value: Any) -> None:
    reduced = reduce(happened(PageId.EVENTS, "data", value), NOW, None, BASE, ())
    assert reduced.selection == NOW


def test_an_event_of_a_view_is_reduced_by_the_view() -> None:
    def take(value: Any, current: Selection, _run: RunRef | None) -> Selection:
        return current.model_copy(update={"row": value})

    event = EventHandler("graph", "clickData", take)
    reduced = reduce(happened("graph", "clickData", 7), NOW, None, BASE, [event])
    assert reduced.selection.row == 7
    assert reduce(happened("other", "clickData", 7), NOW, None, BASE, [event]).selection == NOW


def test_each_report_counts_exactly_once() -> None:
    reports = [{"to": "row=4", "n": 3}, {"to": "pos=2", "n": 4}]
    assert new_reports({"reports": reports}, {"seen": 2}) == reports
    assert new_reports({"reports": reports}, {"seen": 3}) == reports[1:]
    assert new_reports({"reports": reports}, {"seen": 4}) == new_reports(None, None) == []


def test_simultaneous_events_apply_in_order() -> None:
    events = [go("prompt=Hi"), go("row=4"), go("row=5&pos=1")]
    after = reduce_all(events, NOW, None, BASE, ()).selection
    assert (after.prompt, after.row, after.pos, after.attempt) == ("Hi", 5, 1, 2)


def test_every_change_of_the_selection_can_be_undone() -> None:
    def noted(event: Event) -> dict[str, Any]:
        return address_note(reduce(event, NOW, None, BASE, ()), NOW, BASE, 7)

    full, row = "?model=m&prompt=Hello&new=1", "row=4&method=effect"
    assert noted(go("row=4")) == {
        "query": f"?{row}", "link": f"{full}&{row}", "push": True, "kind": "cell",
        "ignored": [], "full": [], "seen": 7,
    }  # fmt: skip
    asked = noted(go("prompt=Hi"))
    assert (asked["query"], asked["push"], asked["kind"]) == (
        "?prompt=Hi&method=effect",
        True,
        "run",
    )
    assert noted(go("curve=rank&find=x"))["kind"] == "curve,find"
    assert not noted(go("theme=dark&folded=flow"))["push"]
    assert not noted(happened(PageId.EVENTS, "data", {"url": "?row=4", "n": 3}))["push"]


def test_a_prompt_that_is_too_long_is_refused_whole() -> None:
    form = {"model": "m", "prompt": "a" * 20_001, "new": "1", "template": "off"}
    sent = happened(PageId.EVENTS, "data", {"form": form, "from": "run-button", "n": 3})
    found = reduce(sent, NOW, None, BASE, ())
    assert found.selection == NOW
    assert "The prompt has 20,001 characters. This page accepts at most 20,000." in found.refused
    fits = {**form, "prompt": "a" * 20_000}
    sent = happened(PageId.EVENTS, "data", {"form": fits, "from": "run-button", "n": 4})
    found = reduce(sent, NOW, None, BASE, ())
    assert (len(found.selection.prompt), found.refused) == (20_000, "")


def test_undo_keeps_the_look_of_the_page() -> None:
    now = NOW.model_copy(update={"theme": "dark", "folded": ("flow",), "row": 9})
    back = happened(PageId.EVENTS, "data", {"url": "?row=4&theme=light", "undo": True, "n": 3})
    found = reduce(back, now, None, BASE, ()).selection
    assert (found.row, found.theme, found.folded) == (4, "dark", ("flow",))


def test_a_link_on_the_default_page_names_model_and_prompt() -> None:
    opened = reduce(happened(PageId.URL, "search", ""), Selection(), None, BASE, ())
    note = address_note(opened, Selection(), BASE, 0)
    assert note["query"] == ""
    other = Selection(model="other", prompt="Another", new=5)
    assert from_query(note["link"], other)[0] == BASE


def test_notices_name_dropped_values(run_ref: RunRef) -> None:
    assert notices((), Selection(row=3), run_ref) == ()
    lines = notices(("colour", "foo"), Selection(row=99), run_ref)
    assert "colour, foo" in lines[0]
    assert "row" in lines[1]


@pytest.mark.parametrize("data", [None, {}, {"model": "m"}, {"token_ids": "no"}])
def test_a_run_store_with_invalid_data_is_no_run(data: Any) -> None:
    assert read_run(data) is None
