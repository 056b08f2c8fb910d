"""Sets that buttons change: no click undoes another that was made before the page was redrawn."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

import pytest

from dash_app.state.context import PageId
from dash_app.state.selection import MAX_PINS, Selection, toggle
from dash_app.state.sets import expand_sets
from dash_app.state.update import FULL, Event, notices, reduce_all

BASE = Selection(model="m", prompt="Hello", attempt=1)


def after(*clicks: str, now: Selection = BASE) -> Any:
    events = [Event(PageId.EVENTS, "data", {"to": to}) for to in clicks]
    return reduce_all(events, now, None, BASE, ())


def test_clicks_before_the_redraw_all_count() -> None:
    drawn = ()
    clicks = [toggle("heads", head, drawn) for head in (5, 2, 11)]
    assert after(*clicks).selection.heads == (2, 5, 11)


def test_a_button_has_the_same_effect_however_often_it_is_clicked() -> None:
    pin, unpin = toggle("pins", 7, (1,)), toggle("pins", 1, (1,))
    assert after(pin, pin).selection.pins == (1, 7)
    assert after(unpin, unpin, now=BASE.model_copy(update={"pins": (1, 7)})).selection.pins == (7,)


def test_the_default_set_applies_until_a_choice_is_made() -> None:
    assert after(toggle("pins", 7, (1, 2))).selection.pins == (1, 2, 7)
    chosen = BASE.model_copy(update={"pins": ()})
    assert after(toggle("pins", 7, (1, 2)), now=chosen).selection.pins == (7,)
    assert after(toggle("pins", 7, (7,))).selection.pins == ()
    left_out = after(toggle("readers", "input", ("output", "input", "linear"))).selection
    assert left_out.readers == ("output", "linear")


def test_a_full_set_is_reported_and_unchanged() -> None:
    full = BASE.model_copy(update={"pins": tuple(range(MAX_PINS))})
    refused = after(toggle("pins", 99, full.pins or ()), now=full)
    assert (refused.selection.pins, refused.full) == (full.pins, ("pins",))
    assert notices((), Selection(), None, refused.full) == (FULL["pins"],)
    assert after(toggle("pins", 0, full.pins or ()), now=full).full == ()


@pytest.mark.parametrize(
    "to",
    ["with=", "with=pins", "with=pins:x", "with=prompt:x", "without=heads:x", "with=readers:none"],
)
def test_invalid_data_changes_nothing(to: str) -> None:
    assert after(to).selection == BASE


def test_other_fields_of_a_button_are_kept() -> None:
    pairs = parse_qsl("row=3&" + toggle("heads", 4, (1,)))
    assert expand_sets(pairs, BASE) == ([("row", "3"), ("heads", "1,4")], ())
