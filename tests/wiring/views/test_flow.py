"""The flow's controls, its signed picture, the reading of a link and the causal check."""

from __future__ import annotations

import dataclasses
import re
from functools import partial
from html import unescape
from typing import Any

import pytest

from analysis.contract.specs import NO_ATTENTION, InfoSpec
from analysis.errors import SpecError
from analysis.flow_graph.options import FLOW_METHODS
from analysis.flow_graph.results import Graph
from analysis.flow_graph.specs import CausalSpec, FlowSpec
from dash_app.state import context
from dash_app.state.context import from_query, to_query
from dash_app.state.selection import RunRef, Selection
from dash_app.views import attention
from dash_app.views.flow import actions, check, head, specs
from dash_app.views.flow.specs import options
from tests.support.components import text
from tests.support.fake_service import LAYERS, FakeService, refuse

BASE = Selection(prompt="Hello")
of_shares = partial(Selection, method="proximity")
SHARES = of_shares()


def no_job(_start: float, _end: float) -> None:
    return None


def gos(parts: Any) -> set[str]:
    """The selections of the buttons among the components."""
    found: set[str] = set()
    for part in parts if isinstance(parts, (list, tuple)) else [parts]:
        if hasattr(part, "to_plotly_json"):
            found |= {value for name, value in part.to_plotly_json()["props"].items()
                      if name == "data-go"}  # fmt: skip
            found |= gos(getattr(part, "children", None) or [])
    return found


def test_every_method_has_a_button_and_help(service: FakeService, run_ref: RunRef) -> None:
    found = gos(actions.controls(service, run_ref, SHARES))
    assert {f"method={name}" for name in FLOW_METHODS} <= found
    for name, method in FLOW_METHODS.items():
        shown = text(actions.controls(service, run_ref, Selection(method=name)))
        assert shown.count(method.summary) == 2  # on its button, and in a line of its own


def test_every_button_changes_the_picture_or_is_chosen(
    service: FakeService, run_ref: RunRef
) -> None:
    """Every control changes the request or the rule."""
    info = service.ask("fake", InfoSpec())

    def drawn(selection: Selection) -> Any:
        look = specs.look(selection, info)
        return specs.wanted(run_ref, selection), specs.rule(selection), look, selection.effects

    starts = (
        Selection(),
        SHARES,
        Selection(rule="mass"),
        Selection(method="signed"),
    )
    for start in (*starts, of_shares(direction="up"), Selection(method="rollout")):
        before = drawn(start)
        same = 0
        for address in gos(actions.controls(service, run_ref, start)):
            after, ignored = from_query(address, start)
            assert ignored == ()
            same += drawn(after) == before
        shown = text(actions.controls(service, run_ref, start))
        assert same == shown.count('"aria-pressed": "true"')


def test_a_value_between_the_presets_is_shown() -> None:
    assert "mass=73" in gos(options(Selection(rule="mass", mass=73)))


@pytest.mark.parametrize(
    "query",
    [
        *("method=magic", "rule=all", "sources=9", "sources=0", "mass=100", "least=nan"),
        *("least=0", "direction=left", "split=some", "scale=huge", "first=-1", "last=x"),
        *("start=gone", "sinks=drown", "root=tree", "token=x", "foil=-1", "link=mlp:1:2"),
        "link=cat:1:2:3:-1",
    ],
)  # fmt: skip
def test_invalid_flow_values_are_dropped_and_named(query: str) -> None:
    assert from_query(query, BASE) == (BASE, (query.partition("=")[0],))


def test_the_options_of_the_flow_are_in_the_address() -> None:
    chosen = Selection(
        method="signed", rule="least", sources=3, mass=55, least=0.5, start="reweight",
        sinks="fold", root="answer", direction="up", split="each", scale="fixed", first=2, last=9,
        token=5, foil=7, link="attention:3:0:4:2",
    )  # fmt: skip
    assert from_query(to_query(chosen, BASE), BASE) == (chosen, ())
    assert from_query("token=none&foil=none", chosen)[0].token is None


def test_options_become_the_spec(run_ref: RunRef) -> None:
    spec = specs.wanted(run_ref, of_shares(start="loss", sinks="fold", row=6, pos=3))
    assert spec is not None
    assert (spec.hide_start, spec.fold_sinks, spec.row, spec.position) == ("loss", True, 6, 3)
    up = specs.wanted(run_ref, of_shares(direction="up", row=6, pos=3, root="answer"))
    assert up is not None
    assert (up.direction, up.row, up.position) == ("up", 6, 3)
    from_token = specs.wanted(run_ref, of_shares(direction="up", pos=3))
    assert from_token is not None
    assert (from_token.direction, from_token.row) == ("up", 0)
    assert specs.wanted(run_ref, of_shares(direction="up", row=0)) is not None
    whole = specs.wanted(run_ref, of_shares(root="answer", row=6))
    assert whole is not None
    assert (whole.position, whole.row) == ((4, 5), LAYERS)
    signed = specs.wanted(run_ref, Selection(method="signed", row=3, token=5, foil=10**6))
    assert signed is not None
    assert (signed.row, signed.token, signed.foil) == (LAYERS, 5, None)


def test_display_options_reach_the_picture(service: FakeService, run_ref: RunRef) -> None:
    def made(selection: Selection) -> Any:
        ready = actions.compute(service, run_ref, selection, no_job)
        return actions.draw(service, run_ref, selection, "light", ready)

    usual = made(SHARES)
    few = made(of_shares(first=2, last=3))
    assert len(few.picture["rows"]) < len(usual.picture["rows"])
    assert "folded into the left edge" in few.line
    assert made(of_shares(scale="fixed")).picture["key"] != usual.picture["key"]
    calls = service.calls.count("flow")
    made(of_shares(split="group", scale="fixed", first=1))
    assert service.calls.count("flow") == calls  # the memo has it


def test_a_missing_start_token_is_reported(service: FakeService, run_ref: RunRef) -> None:
    def line(selection: Selection) -> str:
        drawn = actions.draw(service, run_ref, selection, "light", None)
        return drawn.line

    asked = of_shares(start="loss", sinks="fold")
    for selection in (asked, SHARES):
        actions.compute(service, run_ref, selection, no_job)
    assert "No start token is hidden" in line(asked)
    assert "No sink is folded" in line(asked)
    assert "hidden" not in line(SHARES)
    for key, kept in service.memo.items():
        if isinstance(kept, Graph):
            found = dataclasses.replace(kept, hidden_positions=(0,), sink_positions=(1,))
            service.memo[key] = found
    assert "Attention to the start (position 0) is hidden" in line(asked)
    assert "No start" not in line(asked)
    assert "No sink" not in line(asked)


def test_heads_are_offered_by_group_where_there_are_groups() -> None:
    assert "split=group" in gos(options(SHARES, grouped=True))
    assert "split=group" not in gos(options(SHARES))
    assert "split=group" not in gos(options(Selection(method="effect"), grouped=True))
    assert not {"split=sum", "split=each"} & gos(options(Selection(method="rollout")))


@pytest.mark.parametrize(("kv_heads", "offered"), [(1, False), (2, True), (6, False)])
def test_one_group_of_all_heads_offers_no_choice(
    service: FakeService, run_ref: RunRef, monkeypatch: Any, kv_heads: int, offered: bool
) -> None:
    """If all heads share keys and values, a group is all heads; if none do, it is one head."""
    result = context.result_of(service, run_ref)
    info = dataclasses.replace(result.info, heads=6, kv_heads=kv_heads)
    shared = dataclasses.replace(result, info=info)
    monkeypatch.setattr(actions, "result_of", lambda *_: shared)
    found = gos(actions.controls(service, run_ref, SHARES))
    assert ("split=group" in found) == offered
    assert "split=each" in found


def test_a_signed_graph_has_a_picture_of_its_own(service: FakeService, run_ref: RunRef) -> None:
    selection = Selection(method="signed", token=5, foil=7, pos=4)
    ready = actions.compute(service, run_ref, selection, no_job)
    drawn = actions.draw(service, run_ref, selection, "light", ready)
    figure, made, line = drawn
    assert made is None
    assert figure["data"][0]["type"] == "bar"
    assert "' Paris' minus that of" in line
    assert "sum is +2.000, the model's value +2.000" in line
    assert figure["layout"]["meta"]["table"]["rows"][0][-1] == (
        f"layer={LAYERS - 1}&heads=2&link=attention:{LAYERS - 1}:0:4:2"
    )


def test_effects_are_drawn_estimated_first_then_measured(
    service: FakeService, run_ref: RunRef
) -> None:
    selection, parts = Selection(method="effect", token=5, pos=4), []

    def hand_over(part: dict[str, Any]) -> None:
        parts.append(actions.draw(service, run_ref, selection, "light", part))

    ready = actions.compute(service, run_ref, selection, no_job, hand_over)
    (first,) = parts
    assert isinstance(first, context.Shown)
    assert not first.complete
    assert "Measured: 0 links" in first.values.line
    assert "sum to -1.00" in first.values.line
    last = actions.draw(service, run_ref, selection, "light", ready)
    assert isinstance(last, actions.Panel)
    assert "Measured: 1 links, 60 % of the drawn effect" in last.line
    assert "sum to +1.00" in last.line
    assert "Of 1 drawn links with both, 1 differ" in last.line
    assert "causal" not in service.calls


def test_measured_effects_are_cut_when_they_are_chosen(
    service: FakeService, run_ref: RunRef
) -> None:
    selection = Selection(method="effect", effects="measured", pos=4)
    ready = actions.compute(service, run_ref, selection, no_job)
    assert service.calls.count("causal") == 1
    spec = specs.causal_check(run_ref, selection)
    assert spec is not None
    assert service.peek(context.trace_of(run_ref), spec) is not None
    assert isinstance(actions.draw(service, run_ref, selection, "light", ready), actions.Panel)


def test_a_long_prompt_is_not_cut_unless_it_is_asked_for(run_ref: RunRef) -> None:
    long = run_ref.model_copy(update={"token_ids": tuple(range(100)), "prompt_length": 99})
    for pos, exact in ((10, True), (specs.EXACT_UP_TO, False)):
        spec = specs.wanted(long, Selection(method="effect", pos=pos), exact=True)
        assert spec is not None
        assert spec.exact == exact


def test_a_failed_measurement_leaves_the_estimates_and_says_why(
    service: FakeService, run_ref: RunRef
) -> None:
    selection = Selection(method="effect", pos=4)

    def fail(_part: dict[str, Any]) -> None:
        service.fail["flow"] = refuse("The worker stopped.", "Run it again.")

    ready = actions.compute(service, run_ref, selection, no_job, fail)
    del service.fail["flow"]
    drawn = actions.draw(service, run_ref, selection, "light", ready)
    assert isinstance(drawn, actions.Panel)
    assert "The links could not be measured. The worker stopped. Run it again." in drawn.line
    assert "Measured: 0 links" in drawn.line


def test_a_token_compared_with_itself_is_reported(service: FakeService, run_ref: RunRef) -> None:
    selection = Selection(method="signed", token=5, foil=5)
    ready = actions.compute(service, run_ref, selection, no_job)
    drawn = actions.draw(service, run_ref, selection, "light", ready)
    assert "be its own foil" in text(drawn[0])


def test_a_link_is_read_and_an_mlps_neurons_are_named(
    service: FakeService, run_ref: RunRef
) -> None:
    shown = text(head.inspect(service, run_ref, Selection(link="attention:3:0:4:2")))
    assert "head 2 of layer 3" in shown
    assert "Promotes" in shown
    assert "neurons" not in service.calls
    shown = text(head.inspect(service, run_ref, Selection(link="mlp:3:4:4:-1")))
    assert "3,072" in shown
    assert "·Paris" in shown
    assert "Click a link" in text(head.inspect(service, run_ref, Selection()))


@pytest.mark.parametrize(
    ("link", "said"), [("mlp:99:4:4:-1", "does not exist"), ("mlp:3:1:4:-1", "Only attention")]
)
def test_an_invalid_link_is_reported(
    service: FakeService, run_ref: RunRef, link: str, said: str
) -> None:
    assert said in text(head.inspect(service, run_ref, Selection(link=link)))


def test_cuts_are_shown_when_they_are_measured(service: FakeService, run_ref: RunRef) -> None:
    selection = SHARES
    assert check.draw(service, run_ref, selection, "light", None) == []
    ready = check.measure(service, run_ref, selection, check.CUT, no_job)
    shown = text(check.draw(service, run_ref, selection, "light", ready))
    assert "Rank correlation (Spearman) +0.40 over 4 links cut" in shown
    assert "7 links (residual, biases, sinks) can't be cut" in shown
    assert "Methods on this prompt" not in shown
    other = Selection(method="norm")
    assert check.draw(service, run_ref, other, "light", None) == []


def test_measured_cuts_stay_when_the_comparison_fails(
    service: FakeService, run_ref: RunRef
) -> None:
    check.measure(service, run_ref, SHARES, check.CUT, no_job)
    service.fail["comparison"] = refuse("The worker stopped.", "Run it again.")
    ready = check.measure(service, run_ref, SHARES, check.COMPARE, no_job)
    shown = text(check.draw(service, run_ref, SHARES, "light", ready))
    assert "The worker stopped." in shown
    assert "over 4 links cut" in shown


def test_methods_are_compared_best_first(service: FakeService, run_ref: RunRef) -> None:
    ready = check.measure(service, run_ref, SHARES, check.COMPARE, no_job)
    shown = text(check.draw(service, run_ref, SHARES, "light", ready))
    best_first = ["Value-weighted", "Rollout", "Proximity", "Effect", "Signed"]
    assert [shown.index(f'"{name}"') for name in best_first] == sorted(
        shown.index(f'"{name}"') for name in best_first
    )
    assert shown.index('"none"') > shown.index('"+0.10"')


def test_links_that_cannot_be_cut_are_reported(service: FakeService, run_ref: RunRef) -> None:
    whole = of_shares(root="answer")
    with pytest.raises(SpecError):
        specs.causal_check(run_ref, whole)
    ready = check.measure(service, run_ref, whole, check.CUT, no_job)
    assert "one root" in text(check.draw(service, run_ref, whole, "light", ready))
    bottom = of_shares(row=0)
    ready = check.measure(service, run_ref, bottom, check.CUT, no_job)
    assert "no link to cut" in text(check.draw(service, run_ref, bottom, "light", ready))


def of_kind(service: FakeService, monkeypatch: pytest.MonkeyPatch, **has: Any) -> None:
    """Let the model lack something."""
    own = service.model_info
    monkeypatch.setattr(service, "model_info", lambda *args: dataclasses.replace(own(*args), **has))


@pytest.mark.parametrize("method", ["proximity", "value_weighted", "effect"])
def test_the_page_opens_with_a_method_that_the_model_can_do(
    service: FakeService, run_ref: RunRef, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    of_kind(service, monkeypatch, split_heads=False)
    chosen = Selection(method=method)
    actions.compute(service, run_ref, chosen, no_job)
    panel = actions.draw(service, run_ref, chosen, "light", None)
    label = FLOW_METHODS[method].label
    assert panel.line.startswith(f"{label} is not available.")
    assert "can't be split into heads. Shown: Residual norm." in panel.line
    assert panel.picture is not None
    asked = [spec for _, spec in service.memo if isinstance(spec, FlowSpec)]
    assert {spec.method for spec in asked} == {"residual_norm"}
    assert "residual_norm" in str(actions.controls(service, run_ref, chosen))
    check.measure(service, run_ref, chosen, check.CUT, no_job)
    cut = [spec for _, spec in service.memo if isinstance(spec, CausalSpec)]
    assert {spec.flow.method for spec in cut} == {"residual_norm"}


def test_without_heads_and_mlps_the_page_says_that_no_link_can_be_cut(
    service: FakeService, run_ref: RunRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_kind(service, monkeypatch, heads=0, parts=("ssm",))
    panel = actions.draw(service, run_ref, Selection(method="effect"), "light", None)
    assert "no link can be cut. Shown: Proximity." in panel.line


def test_a_model_without_attention_has_an_attention_panel_that_says_so(
    service: FakeService, run_ref: RunRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_kind(service, monkeypatch, heads=0, parts=("ssm",))
    figure, heads, line, options = attention.draw(service, run_ref, Selection(), "light")
    said = " ".join(note["text"] for note in figure["layout"]["annotations"]).replace("<br>", " ")
    assert re.sub("<[^>]*>", "", unescape(said)) == NO_ATTENTION
    assert (heads, line, options) == ([], "No attention to show.", [])
