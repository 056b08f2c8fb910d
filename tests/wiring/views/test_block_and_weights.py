"""The panels of the opened block and of the weights."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from plotly.io.json import to_json_plotly as to_json

from analysis.weights.options import KINDS
from analysis.weights.specs import WeightSpec
from dash_app.state.context import from_query, to_query, trace_of
from dash_app.state.selection import RunRef, Selection
from dash_app.views.block import panel as block
from dash_app.views.weights import figure
from dash_app.views.weights import panel as weights
from tests.support.fake_service import FakeService

OPEN = Selection(pos=4, row=4, panes=("block",))
MODEL = Selection(page="model", layer=3, heads=(2,))


def text(*parts: Any) -> str:
    return json.dumps(json.loads(to_json(list(parts))), ensure_ascii=False)


def test_nothing_is_computed_while_the_panels_are_closed(
    service: FakeService, run_ref: RunRef
) -> None:
    service.fail = {"block", "score_parts", "circuits", "weights"}
    closed = Selection(pos=4, row=4)
    assert block.draw(service, run_ref, closed) == ("", [])
    assert block.draw_why(service, run_ref, closed) == []
    assert weights.draw_circuits(service, run_ref, closed) == ([], [])
    assert weights.draw(service, run_ref, closed, "light", None)[5] is True


def test_the_block_below_the_chosen_cell_is_shown(service: FakeService, run_ref: RunRef) -> None:
    line, parts = block.draw(service, run_ref, OPEN)
    said = text(parts)
    assert line == "Layer 3 at ' is' (position 4), step by step."
    for words in ("State in", "Head 2: what it reads", "Neuron 7", "+1.50", "Relative errors:"):
        assert words in said
    assert block.block_spec(run_ref, OPEN.model_copy(update={"row": 0})).layer == 0


def test_a_head_and_a_key_are_chosen_by_clicks(service: FakeService, run_ref: RunRef) -> None:
    _, parts = block.draw(service, run_ref, OPEN)
    said = text(parts)
    assert "layer=3&heads=4" in said
    assert "link=attention:3:1:4:2" in said.replace("%3A", ":")
    found = service.ask(trace_of(run_ref), block.block_spec(run_ref, OPEN))
    assert block.chosen_pair(found, OPEN) == (2, 0)
    for link, key in (("attention:3:1:4:2", 1), ("attention:3:1:3:2", 0), ("mlp:3:4:4:-1", 0)):
        chosen = OPEN.model_copy(update={"heads": (5,), "link": link})
        assert block.chosen_pair(found, chosen) == (5, key)
        query = to_query(chosen, Selection())
        assert from_query(query, Selection())[0] == chosen


def test_why_a_head_looks_there(service: FakeService, run_ref: RunRef) -> None:
    said = text(block.draw_why(service, run_ref, OPEN))
    assert "Why head 2 looks at 'The' (0)" in said
    assert said.index("+2.00") < said.index("−0.30") < said.index("+0.20")
    assert "All pairs sum to +2.000; the model's own score is +2.000." in said


def test_what_fails_is_shown_in_place(service: FakeService, run_ref: RunRef) -> None:
    service.fail = {"block", "circuits"}
    assert "alert-danger" in text(block.draw(service, run_ref, OPEN))
    pickers, shown = weights.draw_circuits(service, run_ref, MODEL)
    assert "alert-danger" in text(shown)
    assert "layer=7" in text(pickers)


def test_circuits_of_the_chosen_head(service: FakeService, run_ref: RunRef) -> None:
    pickers, shown = weights.draw_circuits(service, run_ref, MODEL)
    said = text(shown)
    assert "Layer 3, head 2: copying score 25 % of all tokens" in said
    assert "OV: singular vectors" in said
    assert "Position is left out." in said
    assert "heads=5" in text(pickers)


def test_the_report_is_drawn_after_it_is_measured(service: FakeService, run_ref: RunRef) -> None:
    assert weights.draw(service, run_ref, MODEL, "light", None)[5:] == (True, False)
    done: list[dict[str, Any]] = []
    ended = weights.measure(service, run_ref, lambda _start, _end: None, hand_over=done.append)
    assert (ended, done) == ({"done": 1}, [{"done": 1}])
    kinds, norms, composed, partners, said, hidden, measured = weights.draw(
        service, run_ref, MODEL, "dark", None
    )
    assert (hidden, measured) == (False, True)
    assert len(kinds["data"]) == len(KINDS)
    assert kinds["data"][2]["z"][3, 2] == np.float32(0.9)
    shape = kinds["layout"]["shapes"][2]
    assert (shape["x0"], shape["y0"]) == (1.5, 2.5)
    assert [line["name"] for line in norms["data"]] == ["W_Q", "mlp.up_proj"]
    assert len(composed["data"]) == len(partners["data"]) == 3
    assert "induction 3.2 (0.90)" in text(said)


def test_a_click_on_a_map_chooses_the_head(run_ref: RunRef) -> None:
    point = {"points": [{"x": 2, "y": 3, "curveNumber": 4}]}
    after = weights.select_clicked(point, MODEL, run_ref)
    assert (after.layer, after.heads) == (3, (2,))
    assert weights.select_clicked(point, MODEL, None) is MODEL


def test_a_report_without_composition_has_no_maps_of_it(
    service: FakeService, run_ref: RunRef
) -> None:
    found = service.ask(run_ref.model, WeightSpec())
    from dataclasses import replace

    bare = replace(found, composition=np.zeros((3, 0, 0), np.float32))
    assert figure.partners(bare, "light", (3, 2))["data"] == []
