"""The contributions panel: order, sum, what a click selects, what goes wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from plotly.io.json import to_json_plotly as to_json

from analysis.attribution.specs import Attribution
from dash_app.state.context import trace_of
from dash_app.state.selection import RunRef, Selection
from dash_app.views import contributions
from dash_app.views.contributions import ORDERS, part_name
from tests.support.fake_service import FakeService, refuse


def text(*parts: Any) -> str:
    return json.dumps(json.loads(to_json(list(parts))), ensure_ascii=False)


@pytest.fixture
def found(service: FakeService, run_ref: RunRef) -> Attribution:
    return service.ask(trace_of(run_ref), contributions.spec(run_ref, Selection(pos=4)))


def test_parts_are_ranked_in_every_order(found: Attribution) -> None:
    logits = {
        order: [part.logit for part in contributions.ranked(found, order)] for order in ORDERS
    }
    assert logits["size"] == sorted(logits["size"], key=lambda x: -abs(x))
    assert logits["raises"] == sorted(logits["raises"], reverse=True)
    assert logits["lowers"] == sorted(logits["lowers"])
    assert contributions.ranked(found, "model") == list(found.parts)


def test_the_table_sums_to_the_logit_and_says_so(
    service: FakeService, run_ref: RunRef, found: Attribution
) -> None:
    line, controls, shown = contributions.draw(service, run_ref, Selection(pos=4), "size", "20")
    assert line == "Contribution of each part to the logit of ' Paris' after ' is' (position 4)."
    rows = shown[0].children[1].children
    assert len(rows) == 21
    assert f"{len(found.parts) - 20} other parts" in text(rows[-1])
    printed = [row.children[2].children.replace("−", "-") for row in rows]
    assert sum(map(float, printed)) == pytest.approx(found.total, abs=0.02)
    assert f"All {len(found.parts)} parts sum to" in text(shown)
    assert "Residual error:" in text(shown)
    assert "foil=" in text(controls)
    *_, everything = contributions.draw(service, run_ref, Selection(pos=4), "model", "0")
    assert len(everything[0].children[1].children) == len(found.parts)


def test_a_click_selects_what_the_part_is(
    service: FakeService, run_ref: RunRef, found: Attribution
) -> None:
    *_, shown = contributions.draw(service, run_ref, Selection(pos=4), "model", "0")
    said = text(shown)
    assert "row=0&pos=4" in said
    assert "layer=3&heads=2&pos=4" in said
    assert "row=4&layer=3&pos=4" in said
    assert part_name(found.parts[0]) == "Embedding"
    assert part_name(found.parts[1]) == "Layer 0, head 0"


@pytest.mark.parametrize(
    ("selection", "name"),
    [
        (Selection(pos=4, layer=3, heads=(2,)), "Layer 3, head 2"),
        (Selection(pos=4, row=6, heads=()), "Layer 5, MLP"),
        (Selection(pos=4, row=0), "Embedding"),
    ],
)
def test_what_is_selected_elsewhere_is_marked(
    service: FakeService, run_ref: RunRef, selection: Selection, name: str
) -> None:
    *_, shown = contributions.draw(service, run_ref, selection, "model", "0")
    rows = shown[0].children[1].children
    marked = [text(row) for row in rows if '"aria-pressed": "true"' in text(row)]
    assert len(marked) == 1
    assert f"Choose {name}" in marked[0]


def test_a_foil_is_named(service: FakeService, run_ref: RunRef) -> None:
    line, _, shown = contributions.draw(service, run_ref, Selection(pos=4, foil=3), "size", "20")
    assert "the logit of ' Paris' minus that of ' France'" in line
    assert "difference of the two logits before any soft cap" in text(shown)


def test_what_goes_wrong_is_said_in_the_panel(service: FakeService, run_ref: RunRef) -> None:
    service.fail["attribute"] = refuse()
    line, controls, shown = contributions.draw(service, run_ref, Selection(pos=4), "size", "20")
    assert line == ""
    assert controls
    assert "The model file is cut off." in text(shown)
