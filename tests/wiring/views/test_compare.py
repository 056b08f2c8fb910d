"""The Compare page: the form, the job's parts, and what is drawn of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from analysis.contract.specs import InfoSpec
from analysis.errors import BackwardError, CancelledError, PromptError
from analysis.experiments.specs import AXES, DIFFERENCES, METRICS
from dash_app.app import create_app
from dash_app.settings import Settings
from dash_app.state.context import Shown, from_query, split, to_query
from dash_app.state.selection import RunRef, Selection
from dash_app.state.update import _select
from dash_app.views.compare import SWEEP, actions, difference
from dash_app.views.compare.layout import FORM, PAIRS, draw_options
from tests.support.components import text
from tests.support.dash_client import DashClient
from tests.support.fake_service import LAYERS, FakeService, refuse

PAIR = PAIRS[0]


@pytest.fixture
def chosen() -> Selection:
    return Selection(
        model="smollm2-135m-instruct", prompt="x", attempt=1, page="compare", clean=PAIR.clean,
        corrupted=PAIR.corrupted, answer=PAIR.answer, against=PAIR.foil,
    )  # fmt: skip


def no_job(_start: float, _end: float) -> None:
    return None


def computed(service: FakeService, chosen: Selection) -> list[Any]:
    """Run the job; what it handed over, and how it ended."""
    parts: list[Any] = []
    ended = actions.compute(service, chosen, no_job, hand_over=parts.append)
    return [*parts, ended]


def drawn(service: FakeService, chosen: Selection, ready: Any = None) -> dict[str, Any]:
    """The values of the drawing's outputs by name, and whether it is complete."""
    shown = actions.draw(service, None, chosen, "light", ready)
    assert isinstance(shown, Shown)
    names = [f"{one.component_id}.{one.component_property}" for one in SWEEP.outputs]
    return {**dict(zip(names, shown.values, strict=True)), "complete": shown.complete}


def test_nothing_is_computed_before_a_pair_is_chosen(service: FakeService) -> None:
    blank = Selection(model="smollm2-135m-instruct")
    found = drawn(service, blank)
    assert found["complete"]
    assert found["compare-caption.children"] == actions.EMPTY
    assert found["compare-rest.hidden"]
    assert computed(service, blank) == [{"done": 0}]
    assert "sweep" not in service.calls


def test_the_estimate_comes_first_and_then_each_part(
    service: FakeService, chosen: Selection
) -> None:
    assert not drawn(service, chosen)["complete"]
    seen: list[dict[str, Any]] = []

    def look(_part: Any) -> None:
        seen.append(drawn(service, chosen))

    ended = actions.compute(service, chosen, no_job, hand_over=look)
    assert ended == {"done": len(seen) - 1}
    captions = [one["compare-caption.children"] for one in seen]
    assert "All cells are estimated." in captions[0]
    assert "5 of 65 cells are measured; paler cells are estimated." in captions[1]
    assert "All cells are measured." in captions[-1]
    assert [one["complete"] for one in seen] == [False] * (len(seen) - 1) + [True]
    assert not seen[1]["compare-rest.hidden"]
    assert seen[-1]["compare-rest.hidden"]
    for each, scaled in zip(seen[:2], ([False, True], [True, False]), strict=True):
        traces = each["compare-graph.figure"]["data"]
        assert [trace["showscale"] for trace in traces] == scaled
    measured, estimated = seen[1]["compare-graph.figure"]["data"]
    assert np.isnan(measured["z"][:-1]).all()
    assert np.isnan(estimated["z"][-1:]).all()
    assert estimated["opacity"] < measured["opacity"] == 1


def test_a_stopped_sweep_keeps_its_parts(service: FakeService, chosen: Selection) -> None:
    parts: list[Any] = []

    def stop(part: Any) -> None:
        parts.append(part)
        if len(parts) == 3:
            raise CancelledError

    assert actions.compute(service, chosen, no_job, hand_over=stop) is None
    before = service.calls.count("sweep")
    assert not drawn(service, chosen)["complete"]
    computed(service, chosen)
    total = 1 + len(actions.parts_of(actions.spec_of(chosen), LAYERS))  # type: ignore[arg-type]
    assert service.calls.count("sweep") == total
    assert 0 < before < total


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("metric", METRICS)
def test_every_picture_says_what_it_shows(
    service: FakeService, chosen: Selection, axes: str, metric: str
) -> None:
    for theme in ("light", "dark"):
        wanted = chosen.model_copy(update={"axes": axes, "metric": metric})
        computed(service, wanted)
        shown = actions.draw(service, None, wanted, theme, None)
        figure, _, caption, _, strongest = shown.values[:5]
        traces = figure["data"]
        assert len(traces) == (4 if axes == "part" else 2)
        assert caption.startswith({
            "logit_difference": "Logit of ' Paris' minus", "probability": "Probability of ' Paris'",
            "kl": "KL divergence", "rank": "Rank of ' Paris'",
        }[metric])  # fmt: skip
        assert " clean, " in caption
        assert " corrupted. " in caption
        assert ("Heads of layer" in caption) == (axes == "head_position")
        assert sum(trace["showscale"] for trace in traces) == 1
        hover = traces[-2]["hovertext"][-1][-1]
        assert "effect +1.000, measured" in hover
        assert METRICS[metric].label.lower() in hover.lower()
        assert "+1.00" in text(strongest)
        opened = text(strongest).replace("%3A", ":").replace("+", " ")
        assert ("edits=patch:" if axes == "state" else "edits=ablate:") in opened
        if axes in ("state", "head_position"):
            assert "·Italy ← ·France" in figure["layout"]["xaxis"]["ticktext"]


def test_a_metric_without_estimate_is_measured_at_once(
    service: FakeService, chosen: Selection
) -> None:
    wanted = chosen.model_copy(update={"metric": "rank"})
    assert computed(service, wanted)[0] == {"part": 1}
    assert drawn(service, wanted)["complete"]


def test_a_model_that_cant_run_backward_is_only_measured(
    chosen: Selection, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = service.sweep

    def sweep(spec: Any, job: Any = None) -> Any:
        if not spec.exact:
            raise BackwardError("This model can't run backward.", "Measure each cell instead.")
        return made(spec, job)

    monkeypatch.setattr(service, "sweep", sweep)
    assert "problem" not in computed(service, chosen)[-1]
    assert drawn(service, chosen)["complete"]


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ("The answer ' New York' is 2 tokens: ' New', ' York'.", "answer"),
        ("The foil ' x' is 2 tokens: ' ', 'x'.", "against"),
        ("The clean prompt can't be read. The prompt is empty.", "clean"),
        ("The corrupted prompt has 900 tokens; this server reads at most 512.", "corrupted"),
        ("Layer 77 does not exist.", "inside"),
        ("The prompts have 5 and 6 tokens, so their positions do not correspond.", ""),
    ],
)
def test_a_problem_is_shown_where_it_was_typed(
    service: FakeService, chosen: Selection, message: str, field: str
) -> None:
    service.fail["sweep"] = PromptError(message, "Try another.")
    ended = computed(service, chosen)[-1]
    found = drawn(service, chosen, ended)
    assert found["complete"]
    for name, control in FORM.items():
        assert found[f"{control}.invalid"] == (name == field)
    assert message in text(found["compare-message.children"])


def test_a_missing_prompt_and_a_foil_that_is_the_answer_are_named(service: FakeService) -> None:
    half = Selection(model="smollm2-135m-instruct", clean="a")
    found = drawn(service, half)
    assert "The corrupted prompt is empty." in text(found["compare-message.children"])
    assert found["compare-corrupted.invalid"]
    same = Selection(model="m", clean="a", corrupted="b", answer="x", against="x")
    found = drawn(service, same)
    assert "The foil is the answer itself." in text(found["compare-message.children"])
    assert found["compare-against.invalid"]


def test_the_form_is_adopted_whole_and_survives_the_link(chosen: Selection) -> None:
    sent = {"clean": " a", "corrupted": "b", "answer": " c", "against": None, "inside": 3}
    adopted = actions.adopt(sent, chosen, None)
    assert (adopted.clean, adopted.answer, adopted.against, adopted.inside) == (" a", " c", "", 3)
    moved = adopted.model_copy(update={"axes": "part", "way": "noise", "metric": "kl"})
    again, ignored = from_query(to_query(moved, Selection()), Selection())
    assert ignored == ()
    assert again == moved.model_copy(update={"attempt": 0})
    assert actions.adopt("x", chosen, None).clean == ""


def test_a_text_that_is_too_long_is_refused_with_its_name(chosen: Selection) -> None:
    sent = {"clean": "a", "corrupted": "b", "answer": "c", "against": "d", "inside": None}
    assert actions.too_long(sent) == ""
    for field, size, words in (
        ("corrupted", 2001, "The corrupted prompt has 2,001 characters; at most 2,000"),
        ("against", 61, "The foil has 61 characters; at most 60"),
    ):
        form = {**sent, field: "x" * size}
        assert words in actions.too_long(form)
        assert actions.adopt(form, chosen, None) == chosen


@pytest.mark.parametrize("axes", AXES)
def test_a_click_on_a_cell_does_what_its_button_in_the_list_does(
    service: FakeService, chosen: Selection, axes: str
) -> None:
    wanted = chosen.model_copy(update={"axes": axes, "edits": ("ablate:mlp_output:1::all:zero",)})
    computed(service, wanted)
    shown = drawn(service, wanted)
    first = shown["compare-strongest.children"][1].children[0].children[0]
    found, _ = actions.known(service, actions.spec_of(wanted))  # type: ignore[arg-type]
    assert found is not None
    place = actions.strongest(found)[0]
    meta = shown["compare-graph.figure"]["layout"]["meta"]
    partner = meta["partners"][place[-1]] if found.names[-1] == "position" else -1
    sent = {"at": list(place), "partner": partner, "layer": meta["layer"]}
    opened = actions.pick(sent, wanted, None)
    by_button = _select(first.to_plotly_json()["props"]["data-go"], wanted).selection
    assert opened == by_button
    assert opened.page == "explore"
    assert opened.prompt == PAIR.corrupted
    assert (opened.row, opened.pos) == (None, None)  # the answer, on which the patch acts
    kind = {"state": "patch:12:4:", "head": "ablate:head", "part": "ablate:"}
    assert opened.edits[0].startswith(kind.get(axes, "ablate:head_output:"))
    aligned = wanted.model_copy(update={"align": "token"})
    assert bool(actions.pick(sent, aligned, None).edits) == (axes != "head")
    short = {"at": [1], "partner": 0, "layer": 0}
    for wrong in ("x", {}, {"at": 3}, short, {**sent, "at": 3}, {**sent, "layer": "x"}):
        assert actions.pick(wrong, wanted, None) == wanted


def test_a_link_that_opens_another_page_starts_no_sweep(
    service: FakeService, chosen: Selection
) -> None:
    elsewhere = chosen.model_copy(update={"page": "explore"})
    assert drawn(service, elsewhere)["complete"]
    assert not drawn(service, chosen)["complete"]
    assert not drawn(service, elsewhere, {"part": 1})["complete"]  # a running sweep goes on


def test_the_empty_page_explains_its_fields(service: FakeService) -> None:
    shown = drawn(service, Selection(model="smollm2-135m-instruct", page="compare"))
    words = text(shown["compare-strongest.children"])
    assert all(name in words for name in ("Clean prompt", "Corrupted prompt", "Answer", "Foil"))


def test_pairs_of_text_are_barred_for_a_model_that_reads_sums(service: FakeService) -> None:
    sums = Selection(model="addition-5digit")
    buttons = draw_options(service, None, sums)[3][1:]
    assert [bool(getattr(one, "disabled", False)) for one in buttons] == [True, True, True, False]
    others = draw_options(service, None, Selection(model="gpt2"))[3]
    assert not any(getattr(one, "disabled", False) for one in others)


@pytest.mark.parametrize("page", ["compare", "model"])
def test_a_model_of_the_menu_takes_effect_at_once(
    service: FakeService, settings: Settings, run_ref: RunRef, chosen: Selection, page: str
) -> None:
    shown = chosen.model_copy(update={"page": page, "prompt": run_ref.prompt, "new": run_ref.new})
    report = {"to": "model=addition-5digit", "from": "run-model", "n": 1}
    values = {
        **{f"{part}.data": data for part, data in split(shown).items()},
        "run.data": run_ref.model_dump(),
        "scheme.data": "light",
        "events.data": {"reports": [report]},
    }
    client = DashClient(create_app(service, settings))
    found = client.answer("query.data", {"events.data"}, values)
    wanted = {"model": "addition-5digit", "prompt": run_ref.prompt, "new": 2, "template": "off"}
    for store in ("request", "asked"):
        assert found[store]["data"].items() >= {**wanted, "attempt": 2, "branch": ""}.items()
    note = found["query"]["data"]
    assert (note["push"], note["kind"], note["seen"]) == (True, "run", 1)
    assert "model=addition-5digit" in note["link"]
    assert note["set"] == {}  # what was typed stays
    assert "sweep" not in found  # the pair stays
    pairs = found["compare-pairs"]["children"][0]["props"]["tree"][1:]
    assert [bool(one["props"].get("disabled")) for one in pairs] == [True, True, True, False]
    assert ("patching-wanted" in found) == (page == "compare")


def test_model_b_is_chosen_in_a_menu_that_opens_the_difference(service: FakeService) -> None:
    plain = Selection(model="smollm2-135m-instruct", panes=("check", "components"))
    menu = draw_options(service, None, plain)[1][0]
    shown = text(menu)
    assert "Model B: Same model" in shown
    assert "smollm2-135m-instruct" not in shown
    chosen = _select("other=addition-5digit&panes=check,difference", plain).selection
    assert "other=addition-5digit&panes=check,difference" in shown
    assert (chosen.other, chosen.attempt) == ("addition-5digit", plain.attempt)
    named = [draw_options(service, None, each)[4] for each in (plain, chosen)]
    assert named == ["Patch", "Compare"]
    fact, *_, total = draw_options(service, None, chosen)[3][1:]
    one = _select(fact.to_plotly_json()["props"]["data-go"], chosen).selection
    assert (one.clean, one.corrupted, one.other) == (PAIR.clean, "", "addition-5digit")
    one = _select(total.to_plotly_json()["props"]["data-go"], chosen).selection
    assert (one.model, one.corrupted, one.other) == ("addition-5digit", PAIRS[-1].corrupted, "")


def test_the_layer_is_asked_for_only_where_it_matters(service: FakeService) -> None:
    hidden = {axes: draw_options(service, None, Selection(axes=axes))[2] for axes in AXES}
    assert hidden == {"state": True, "head": True, "part": True, "head_position": False}


def test_the_job_needs_no_run(service: FakeService, chosen: Selection) -> None:
    assert service.peek(chosen.model, InfoSpec()) is None
    assert computed(service, chosen)[-1] == {"done": 7}


def test_an_unexpected_error_is_shown_with_its_request(
    service: FakeService, chosen: Selection
) -> None:
    service.fail["sweep"] = refuse()
    ended = computed(service, chosen)[-1]
    assert "problem" in ended
    assert text(drawn(service, chosen, ended)["compare-message.children"])


def apart(service: FakeService, chosen: Selection, ready: Any = None) -> Shown:
    return difference.draw(service, None, chosen, "light", ready)


def test_the_difference_is_computed_only_while_its_pane_is_open(
    service: FakeService, chosen: Selection
) -> None:
    assert apart(service, chosen).complete
    opened = chosen.model_copy(update={"panes": ("difference",)})
    assert not apart(service, opened).complete
    assert difference.compute(service, opened, no_job) == {"done": 1}
    shown = apart(service, opened)
    assert shown.complete
    figure, caption, _ = shown.values
    assert figure["data"][0]["z"][-1][-1] == 6
    assert "13 tokens" not in caption
    assert "4 tokens are aligned. 2 tokens have no partner." in caption
    assert "Largest after layer 11, positions 4 and 4: 6.000" in caption
    hover = figure["data"][0]["hovertext"][-1][-1]
    assert "clean: ·Paris first" in hover
    assert "corrupted: ·stone first" in hover


def test_the_change_of_probability_is_signed(service: FakeService, chosen: Selection) -> None:
    wanted = chosen.model_copy(update={"panes": ("difference",), "apart": "probability"})
    assert "probability" in DIFFERENCES
    difference.compute(service, wanted, no_job)
    figure, caption, _ = apart(service, wanted).values
    heat = figure["data"][0]
    assert (heat["zmin"], heat["zmax"]) == (-1.0, 1.0)
    assert heat["z"][-1][-1] == pytest.approx(-0.75)
    assert caption.startswith("Probability of ' Paris', corrupted minus clean")
    sides = {
        side: apart(service, wanted.model_copy(update={"apart": side})).values
        for side in ("clean", "corrupted")
    }
    change = sides["corrupted"][0]["data"][0]["z"] - sides["clean"][0]["data"][0]["z"]
    np.testing.assert_allclose(change, heat["z"], atol=1e-6)
    assert sides["clean"][0]["data"][0]["zmin"] == 0
    assert sides["clean"][1].startswith("Probability of ' Paris' in the clean run")


def test_a_problem_of_the_difference_is_shown_in_its_place(
    service: FakeService, chosen: Selection
) -> None:
    opened = chosen.model_copy(update={"panes": ("difference",)})
    service.fail["compare_prompts"] = PromptError("Prompt A has 900 tokens.", "Shorten it.")
    ended = difference.compute(service, opened, no_job)
    shown = apart(service, opened, ended)
    assert shown.complete
    assert "900 tokens" in str(shown.values[0])
    half = opened.model_copy(update={"clean": ""})
    assert "is empty" in str(apart(service, half).values[0])
