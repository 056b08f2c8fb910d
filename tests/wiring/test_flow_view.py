"""The flow's controls, its signed picture, the reading of a link and the causal check."""

from __future__ import annotations

import json
from typing import Any

import pytest
from plotly.io.json import to_json_plotly as to_json

from analysis.errors import SpecError
from dash_app.state import RunRef, Selection, from_query, to_query
from dash_app.views.flow import actions, check, inspector, specs
from dash_app.views.flow.methods import METHODS
from dash_app.views.flow.options import options
from tests.support.fake_service import LAYERS, FakeService

BASE = Selection()


def no_job(_start: float, _end: float) -> None:
    return None


def text(*parts: Any) -> str:
    return json.dumps(json.loads(to_json(list(parts))), ensure_ascii=False)


def gos(parts: Any) -> set[str]:
    """What the buttons among the components select."""
    found: set[str] = set()
    for part in parts if isinstance(parts, (list, tuple)) else [parts]:
        if hasattr(part, "to_plotly_json"):
            found |= {value for name, value in part.to_plotly_json()["props"].items()
                      if name == "data-go"}  # fmt: skip
            found |= gos(getattr(part, "children", None) or [])
    return found


def test_every_method_has_a_button_and_help(service: FakeService, run_ref: RunRef) -> None:
    found = gos(actions.controls(service, run_ref, Selection()))
    assert {f"method={method.value}" for method in METHODS} <= found
    for method in METHODS:
        shown = text(actions.controls(service, run_ref, Selection(method=method.value)))  # type: ignore[arg-type]
        assert shown.count(method.help) == 2  # on its button, and in a line of its own


def test_every_button_changes_what_is_drawn_or_is_the_chosen_one(
    service: FakeService, run_ref: RunRef
) -> None:
    """No control that does nothing: each makes another request, or another rule."""
    for start in (Selection(), Selection(rule="mass"), Selection(method="signed")):
        before = specs.wanted(run_ref, start), specs.rule(start)
        same = 0
        for address in gos(actions.controls(service, run_ref, start)):
            after, ignored = from_query(address, start)
            assert ignored == ()
            changed = specs.wanted(run_ref, after), specs.rule(after)
            same += changed == before
        shown = text(actions.controls(service, run_ref, start))
        assert same == shown.count('"aria-pressed": "true"')


def test_a_value_between_the_presets_is_shown() -> None:
    assert "mass=73" in gos(options(Selection(rule="mass", mass=73)))


@pytest.mark.parametrize(
    "query",
    ["method=magic", "rule=all", "sources=9", "sources=0", "mass=100", "least=nan", "least=0",
     "start=gone", "sinks=drown", "root=tree", "token=x", "foil=-1", "link=mlp:1:2",
     "link=cat:1:2:3:-1"],
)  # fmt: skip
def test_nonsense_about_the_flow_is_left_out_and_named(query: str) -> None:
    assert from_query(query, BASE) == (BASE, (query.partition("=")[0],))


def test_the_flows_options_are_in_the_address() -> None:
    chosen = Selection(
        method="signed", rule="least", sources=3, mass=55, least=0.5, start="reweight",
        sinks="fold", root="answer", token=5, foil=7, link="attention:3:0:4:2",
    )  # fmt: skip
    assert from_query(to_query(chosen, BASE), BASE) == (chosen, ())
    assert from_query("token=none&foil=none", chosen)[0].token is None


def test_options_become_the_request(run_ref: RunRef) -> None:
    spec = specs.wanted(run_ref, Selection(start="loss", sinks="fold", row=6, pos=3))
    assert spec is not None
    assert (spec.hide_start, spec.fold_sinks, spec.row, spec.position) == ("loss", True, 6, 3)
    whole = specs.wanted(run_ref, Selection(root="answer", row=6))
    assert whole is not None
    assert (whole.position, whole.row) == ((4, 5), LAYERS)
    signed = specs.wanted(run_ref, Selection(method="signed", row=3, token=5, foil=10**6))
    assert signed is not None
    assert (signed.row, signed.token, signed.foil) == (LAYERS, 5, None)


def test_a_signed_graph_has_a_picture_of_its_own(service: FakeService, run_ref: RunRef) -> None:
    selection = Selection(method="signed", token=5, foil=7, pos=4)
    ready = actions.follow(service, run_ref, selection, no_job)
    drawn = actions.draw(service, run_ref, selection, "light", ready)
    assert drawn is not None
    figure, line = drawn
    assert figure["data"][0]["type"] == "bar"
    assert "' Paris' less that of" in line
    assert "sum to +2.000, the model says +2.000" in line
    assert figure["layout"]["meta"]["table"]["rows"][0][-1] == (
        f"layer={LAYERS - 1}&heads=2&link=attention:{LAYERS - 1}:0:4:2"
    )


def test_a_token_held_against_itself_is_said(service: FakeService, run_ref: RunRef) -> None:
    selection = Selection(method="signed", token=5, foil=5)
    ready = actions.follow(service, run_ref, selection, no_job)
    drawn = actions.draw(service, run_ref, selection, "light", ready)
    assert drawn is not None
    assert "held against itself" in text(drawn[0])


def test_a_link_is_read_and_an_mlps_neurons_are_named(
    service: FakeService, run_ref: RunRef
) -> None:
    shown = text(inspector.inspect(service, run_ref, Selection(link="attention:3:0:4:2")))
    assert "head 2 of layer 3" in shown
    assert "Promotes" in shown
    assert "neurons" not in service.calls
    shown = text(inspector.inspect(service, run_ref, Selection(link="mlp:3:4:4:-1")))
    assert "3,072" in shown
    assert "·Paris" in shown
    assert "Click a link" in text(inspector.inspect(service, run_ref, Selection()))


@pytest.mark.parametrize(
    ("link", "said"), [("mlp:99:4:4:-1", "does not exist"), ("mlp:3:1:4:-1", "Only attention")]
)
def test_a_link_that_is_none_is_said(
    service: FakeService, run_ref: RunRef, link: str, said: str
) -> None:
    assert said in text(inspector.inspect(service, run_ref, Selection(link=link)))


def test_cuts_are_shown_once_they_are_measured(service: FakeService, run_ref: RunRef) -> None:
    selection = Selection()
    assert check.show(service, run_ref, selection, "light", None) == []
    ready = check.measure(service, run_ref, selection, check.CUT, no_job)
    shown = text(check.show(service, run_ref, selection, "light", ready))
    assert "Rank correlation (Spearman) +0.40 over 4 links cut" in shown
    assert "7 links have nothing to cut" in shown
    assert "Methods on this prompt" not in shown
    other = Selection(method="norm")
    assert check.show(service, run_ref, other, "light", None) == []


def test_methods_are_compared_best_first(service: FakeService, run_ref: RunRef) -> None:
    ready = check.measure(service, run_ref, Selection(), check.COMPARE, no_job)
    shown = text(check.show(service, run_ref, Selection(), "light", ready))
    best_first = ["Rollout", "Hidden KL", "KL", "Proximity", "Signed"]
    assert [shown.index(f'"{name}"') for name in best_first] == sorted(
        shown.index(f'"{name}"') for name in best_first
    )
    assert shown.index('"none"') > shown.index('"+0.10"')


def test_what_cannot_be_cut_is_said(service: FakeService, run_ref: RunRef) -> None:
    whole = Selection(root="answer")
    with pytest.raises(SpecError):
        specs.check(run_ref, whole)
    ready = check.measure(service, run_ref, whole, check.CUT, no_job)
    assert "one root" in text(check.show(service, run_ref, whole, "light", ready))
    bottom = Selection(row=0)
    ready = check.measure(service, run_ref, bottom, check.CUT, no_job)
    assert "no link to cut" in text(check.show(service, run_ref, bottom, "light", ready))
