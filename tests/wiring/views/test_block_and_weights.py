"""The panels of the opened block and of the weights."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from plotly.io.json import to_json_plotly as to_json

from analysis.inside_block.specs import ExpertSpec
from analysis.weights.specs import KINDS, StateCircuitSpec, WeightSpec
from dash_app.state.context import from_query, to_query, trace_of
from dash_app.state.selection import RunRef, Selection
from dash_app.views import block, weights
from dash_app.views.block import tables
from dash_app.views.weights import figure
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
    assert weights.draw_circuits(service, run_ref, closed) == []
    assert weights.draw(service, run_ref, closed, "light", None) == ([], False)


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
        elsewhere = chosen.model_copy(update={"layer": 2})
        assert block.chosen_pair(found, elsewhere) == (2, key)
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
    said = text(weights.draw_circuits(service, run_ref, MODEL))
    assert "alert-danger" in said
    assert "layer=7" in said


def test_circuits_of_the_chosen_head(service: FakeService, run_ref: RunRef) -> None:
    said = text(weights.draw_circuits(service, run_ref, MODEL))
    assert "Layer 3, head 2: copying score 25 % of all tokens" in said
    assert "OV: singular vectors" in said
    assert "Position is left out." in said
    assert "heads=5" in said


def test_the_report_is_drawn_after_it_is_measured(service: FakeService, run_ref: RunRef) -> None:
    assert weights.draw(service, run_ref, MODEL, "light", None) == ([], False)
    done: list[dict[str, Any]] = []
    ended = weights.measure(service, run_ref, lambda _start, _end: None, hand_over=done.append)
    assert (ended, done) == ({"done": 1}, [{"done": 1}])
    shown, measured = weights.draw(service, run_ref, MODEL, "dark", None)
    assert measured
    said = text(shown)
    assert "layer 3, head 2: 0.90" in said
    assert "layer=3&heads=2" in said
    assert "Composition with layer 3, head 2" in said
    assert "On average 50 % of attention's squared output lies in the 4 main directions" in said
    assert "Attention, control" in said


def test_a_prompt_too_short_for_a_span_has_no_aggregation(
    service: FakeService, run_ref: RunRef
) -> None:
    short = run_ref.model_copy(update={"token_ids": run_ref.token_ids[:4]})
    weights.measure(service, short, lambda _start, _end: None, hand_over=lambda _done: None)
    shown, measured = weights.draw(service, short, MODEL, "dark", None)
    assert measured
    assert "Aggregation" not in text(shown)
    assert [type(one).__name__ for one in weights.specs(service, short, MODEL)] == [
        "CircuitSpec", "WeightSpec",
    ]  # fmt: skip


def test_circuits_of_the_states_of_a_row(service: FakeService, run_ref: RunRef) -> None:
    chosen = MODEL.model_copy(update={"reads": "states", "row": 3})
    said = text(weights.draw_circuits(service, run_ref, chosen))
    assert "Layer 3, head 2, reading the states of row 3" in said
    assert "token most at 100 % of the positions. These are the states that it reads" in said
    assert "row=5" in said
    elsewhere = text(weights.draw_circuits(service, run_ref, chosen.model_copy(update={"row": 5})))
    assert "These are the states" not in elsewhere
    assert weights.specs(service, run_ref, chosen)[0] == StateCircuitSpec(3, 2, 3)


def test_a_neuron_is_ablated_by_a_button(service: FakeService, run_ref: RunRef) -> None:
    edit = "ablate:neuron:3:7:4:zero"
    _, parts = block.draw(service, run_ref, OPEN)
    assert f"with=edits:{edit}" in text(parts)
    edited = run_ref.model_copy(update={"edits": (edit,)})
    found = service.ask(trace_of(run_ref), block.block_spec(run_ref, OPEN))
    known = {token.id: token for token in found.vocabulary}
    assert f"without=edits:{edit}" in text(tables.neurons(found, known, edited.edits))


def test_texts_of_the_neurons_are_found_on_request(
    service: FakeService, run_ref: RunRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(own: Any = None) -> Any:
        return block.draw_texts(service, run_ref, OPEN, own)

    def search(own: Any = None) -> Any:
        return block.searched(service, tables.text_spec(run_ref, OPEN, 3, own), lambda *_: None)

    said: list[Any] = []
    monkeypatch.setattr(block, "set_props", lambda _id, props: said.append(props["children"]))
    menu, found_tables, off = drawn()
    assert (found_tables, off) == ([], False)
    assert "menu-suite" in text(menu)
    done = search()
    shown = text(drawn()[1])
    assert "Layer 3, 2 texts" in shown
    assert shown.index("The capital of") < shown.index(" France") < shown.index(" is Paris")
    own = "One text.\n\nAnother."
    assert tables.text_spec(run_ref, OPEN, 3, own).own == ("One text.", "Another.")
    assert drawn(own)[1] == []  # not run yet
    assert search(own) != done
    assert "Layer 3, 2 texts" in text(drawn(own))
    service.fail = {"neuron_texts"}
    assert search("A third.") is None
    assert "alert-danger" in text(said[-1])
    service.fail = {"block"}
    assert "alert-danger" in text(drawn())
    assert block.draw_texts(service, run_ref, Selection(), None) == ([], [], True)


def test_experts_are_listed_by_weight(service: FakeService, run_ref: RunRef) -> None:
    found = service.ask(trace_of(run_ref), ExpertSpec(1, 4))
    known = {token.id: token for token in found.vocabulary}
    said = text(tables.experts(found, known))
    assert said.index("Expert 3") < said.index("75 %") < said.index("Expert 0")
    assert "Shared experts and biases" in said
    assert "2 of 8 experts, each run alone." in said
    dense = service.ask(trace_of(run_ref), ExpertSpec(2, 4))
    assert tables.experts(dense, known) is None


def test_the_decoder_of_the_states_is_chosen_in_the_pane(
    service: FakeService, run_ref: RunRef
) -> None:
    chosen = OPEN.model_copy(update={"decoder": "linear"})
    assert block.block_spec(run_ref, chosen).decoder == "linear"
    said = text(block.draw(service, run_ref, chosen))
    assert "menu-blockdecoder" in said
    assert "decoder=input" in said
    learned = OPEN.model_copy(update={"decoder": "learned"})
    assert block.block_spec(run_ref, learned).decoder == "learned"
    other = run_ref.model_copy(update={"model": "a model without a learned lens"})
    assert block.block_spec(other, learned).decoder == "output"


def test_figures_of_the_weights(service: FakeService, run_ref: RunRef) -> None:
    found = service.ask(run_ref.model, WeightSpec())
    maps = figure.kinds(found, "light", (3, 2))
    assert len(maps["data"]) == len(KINDS)
    assert maps["data"][2]["z"][3, 2] == np.float32(0.9)
    shape = maps["layout"]["shapes"][2]
    assert (shape["x0"], shape["y0"]) == (1.5, 2.5)
    assert [line["name"] for line in figure.norms(found, "light")["data"]] == ["W_Q", "mlp.up_proj"]
    largest = figure.composition(found, "dark")["data"][1]["z"]
    assert largest[2, 3] == np.float32(0.05)
    assert np.isnan(largest[3, 2])
    partner = figure.partners(found, "dark", (3, 2))["data"][0]["z"]
    assert partner[2, 0] == partner[4, 0] == np.float32(0.05)
    assert np.isnan(partner[3]).all()


def test_a_report_without_composition_has_no_maps_of_it(
    service: FakeService, run_ref: RunRef
) -> None:
    found = service.ask(run_ref.model, WeightSpec())
    from dataclasses import replace

    bare = replace(found, composition=np.zeros((3, 0, 0), np.float32))
    assert figure.partners(bare, "light", (3, 2))["data"] == []
