"""Edits in the selection: in the address, in the run, and apart from other users' edits."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest

from analysis.lens.specs import LensSpec
from analysis.tracing.edits import unescaped
from analysis.tracing.interventions import MAX_EDITS
from analysis.tracing.specs import AnswerSpec, RunSpec
from analysis.trajectory.specs import StorySpec
from dash_app.state.context import PageId, from_query, join, result_of, split, to_query, trace_of
from dash_app.state.drawings import MemoOnly
from dash_app.state.selection import RunRef, Selection, applied, edited
from dash_app.state.update import FULL, Event, notices, reduce_all
from dash_app.views import story
from dash_app.views.edits import cards, panel
from dash_app.views.story import edit_phrases
from tests.support.components import text
from tests.support.fake_results import HEADS, LAYERS, VOCAB
from tests.support.true_service import TrueService

BASE = Selection(model="m", prompt="Hello", attempt=1)
EVERYWHERE, HERE = "ablate:mlp_output:1:all:all:zero", "inject:2:1: a,b"
HERE_NOW = "inject:2:1: a%2Cb:replace"


def with_edits(*edits: str) -> Selection:
    return BASE.model_copy(update={"edits": edits})


def after(*clicks: str, now: Selection = BASE) -> Any:
    events = [Event(PageId.EVENTS, "data", {"to": to}) for to in clicks]
    return reduce_all(events, now, None, BASE, ())


def run_of(selection: Selection, ids: tuple[int, ...] = (5, 9, 3)) -> RunRef:
    run = RunRef(
        model=selection.model, prompt=selection.prompt, new=0, attempt=selection.attempt,
        token_ids=ids, prompt_length=len(ids), layers=LAYERS, heads=HEADS, vocab=VOCAB, layer=0,
    )  # fmt: skip
    found = edited(run, selection)
    assert found is not None
    return found


def test_the_address_and_the_stores_hold_the_edits() -> None:
    chosen = with_edits(EVERYWHERE, f"~{HERE_NOW}").model_copy(update={"version": "difference"})
    assert from_query(to_query(chosen, BASE), BASE) == (chosen, ())
    assert join(*split(chosen).values()) == chosen
    assert "edits" not in to_query(BASE, Selection())


def test_equal_edits_have_one_form_and_other_texts_are_ignored() -> None:
    found, ignored = from_query(f"?edits={EVERYWHERE},ablate:mlp:1:all", BASE)
    assert (applied(found), set(found.edits), ignored) == ((EVERYWHERE,), {EVERYWHERE}, ())
    for bad in ("x", "ablate:mlp_output:1", "inject:1:1:", f"{EVERYWHERE},x"):
        assert from_query(f"?edits={bad}", BASE) == (BASE, ("edits",))
    many = ",".join(f"ablate:mlp_output:{layer}:all:all:zero" for layer in range(MAX_EDITS + 1))
    assert from_query(f"?edits={many}", BASE) == (BASE, ("edits",))


def test_buttons_add_switch_and_remove_edits() -> None:
    both = after(f"with=edits:{EVERYWHERE}", "with=edits:inject:2:1:+a%252Cb:replace").selection
    assert both.edits == (EVERYWHERE, HERE_NOW)
    off = after(f"switch=edits:{EVERYWHERE}", now=both).selection
    assert off.edits == (f"~{EVERYWHERE}", HERE_NOW)
    assert applied(off) == (HERE_NOW,)
    assert after(f"switch=edits:~{EVERYWHERE}", now=off).selection == both
    assert after(f"without=edits:~{EVERYWHERE}", now=off).selection.edits == (HERE_NOW,)
    assert after("edits=none", now=both).selection == BASE
    assert after(f"without=edits:{EVERYWHERE}&shown=none", now=BASE).selection == BASE


def test_a_full_list_is_reported() -> None:
    full = with_edits(*(f"ablate:mlp_output:{layer}:all:all:zero" for layer in range(MAX_EDITS)))
    refused = after("with=edits:cut:1:all:1:0", now=full)
    assert (refused.selection.edits, refused.full) == (full.edits, ("edits",))
    assert notices((), Selection(), None, refused.full) == (FULL["edits"],)


def test_another_prompt_switches_edits_at_positions_off() -> None:
    chosen = with_edits(EVERYWHERE, HERE_NOW)
    assert after("prompt=Bye", now=chosen).selection.edits == (EVERYWHERE, f"~{HERE_NOW}")
    assert after("template=on", now=chosen).selection.edits == (EVERYWHERE, f"~{HERE_NOW}")
    assert after("new=5", now=chosen).selection.edits == chosen.edits
    assert after("model=other", now=chosen).selection.edits == ()
    linked = after("prompt=Bye&edits=cut:1:all:1:0", now=chosen).selection
    assert linked.edits == ("cut:1:all:1:0",)


def test_an_older_run_keeps_its_edits() -> None:
    run = run_of(with_edits(EVERYWHERE))
    newer = with_edits(HERE_NOW).model_copy(update={"attempt": 2})
    assert edited(run, newer) is run
    assert edited(None, newer) is None
    assert run.baseline.edits == ()


def test_two_users_with_different_edits_never_share_a_result(tiny_llama_dir: Any) -> None:
    name = str(tiny_llama_dir)
    runs = [
        run_of(with_edits(*edits).model_copy(update={"model": name}))
        for edits in ((), (EVERYWHERE,), ("ablate:mlp_output:1:all:1:zero",), (f"~{EVERYWHERE}",))
    ]
    service = TrueService(name)
    grids = [service.ask(trace_of(run), LensSpec()) for run in runs[:3]]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(grids[one].probs[-1] - grids[other].probs[-1]).max() > 1e-6
    assert trace_of(runs[3]) == trace_of(runs[0])  # an edit that is off changes nothing
    only = MemoOnly(service, LookupError())  # type: ignore[arg-type]
    fresh = run_of(with_edits("cut:1:all:1:0").model_copy(update={"model": name}))
    with pytest.raises(LookupError):
        only.ask(trace_of(fresh), LensSpec())


@pytest.fixture
def pair(tiny_llama_dir: Any) -> tuple[TrueService, RunRef, Selection]:
    name = str(tiny_llama_dir)
    selection = with_edits(EVERYWHERE).model_copy(update={"model": name, "prompt": "abc def"})
    service = TrueService(name)
    plain = run_of(selection).baseline
    ids = result_of(service, plain).token_ids
    return service, run_of(selection, ids), selection


def test_the_run_has_the_predictions_of_its_edits(pair: tuple[Any, RunRef, Any]) -> None:
    import analysis

    service, run, _ = pair
    found, plain = result_of(service, run), result_of(service, run.baseline)
    model = analysis.load_model(run.model)
    edit = analysis.interventions.Ablate("mlp_output", 1)
    logits = analysis.trace(model, run.token_ids, interventions=[edit]).logits.astype(np.float64)
    probs = np.exp(logits - np.logaddexp.reduce(logits, -1, keepdims=True))
    assert np.array_equal(found.top_ids[:, 0], probs.argmax(-1))
    assert np.abs(found.top_probs[:, 0] - probs.max(-1)).max() < 1e-5
    for pos, token in enumerate(run.token_ids[1:]):
        assert found.next_prob[pos] == pytest.approx(probs[pos, token], abs=1e-6)
        assert found.next_rank[pos] == (probs[pos] > probs[pos, token]).sum()
    assert np.isnan(found.next_prob[-1])
    assert found.next_rank[-1] == -1
    assert found.tokens == plain.tokens
    best = int(plain.top_ids[-1, 0])
    spoken = "".join(part for part, _ in edit_phrases(service, run, len(run.token_ids) - 1))
    assert spoken.startswith("With 1 edit, ")
    before, after_edit = plain.top_probs[-1, 0], probs[-1, best]
    verb = "falls" if after_edit < before else "rises"
    assert verb in spoken or "stays" in spoken
    assert edit_phrases(service, run.baseline, 0) == []
    spoken = "".join(part for part, _ in edit_phrases(service, run, run.prompt_length - 1))
    headline = story.draw(service, run, Selection(pos=0))
    assert text(headline).count("With 1 edit") == 1
    assert "".join(str(one.children) for one in headline).startswith(spoken)  # not of position 0
    assert service.ask(trace_of(run), StorySpec(0)).prob == pytest.approx(probs[0].max(), abs=1e-6)


def test_the_cards_say_what_is_edited(pair: tuple[Any, RunRef, Selection]) -> None:
    service, run, selection = pair
    assert cards.cards(service, run.baseline, BASE) == []
    both = selection.model_copy(update={"edits": (EVERYWHERE, "~cut:1:all:1:0", "hold")})
    shown = text(cards.cards(service, run, both))
    assert "The MLP output of layer 1 is set to zero at all positions." in shown
    assert "In layer 1 at position 1, no head reads position 0." in shown
    assert "Python: Ablate(" in shown
    assert "Remove all" in shown
    assert "are held at those" not in shown  # the switch says so
    wrong = run.model_copy(update={"edits": ("ablate:mlp_output:1:all:99:zero",)})
    assert "Position 99 does not exist." in text(cards.cards(service, wrong, both))
    link = selection.model_copy(update={"row": 2, "heads": (1,), "link": "attention:1:0:2:1"})
    offered = text(panel.here(service, run, link))
    assert "MLP of layer 1" in offered
    assert "Head 1 of layer 0" in offered
    assert "In layer 1 at position 2, head 1 does not read position 0." in offered
    bottom = text(panel.here(service, run, selection.model_copy(update={"row": 0})))
    assert "Choose a higher row" in bottom


#: An edit, new values of its card's fields, and the edit or problem that they make.
CHANGES = [
    (EVERYWHERE, {1: 0, 3: "1, 2", 4: "mean"}, "ablate:mlp_output:0:all:1+2:mean"),
    (EVERYWHERE, {0: "head_output", 2: "3"}, "ablate:head_output:1:3:all:zero"),
    (EVERYWHERE, {0: "neuron", 2: "7", 3: "2"}, "ablate:neuron:1:7:2:zero"),
    (
        EVERYWHERE, {4: "resample", 5: "a: b", 6: "0"},
        "ablate:mlp_output:1:all:all:resample:a%3A b:0",
    ),
    ("ablate:neuron:1:7:2:zero", {0: "mlp_output"}, "ablate:mlp_output:1:all:2:zero"),
    ("cut:1:all:1:0", {1: "2"}, "cut:1:2:1:0"),
    ("inject:2:1:a:replace", {0: 1, 2: "b", 3: "main_component"}, "inject:1:1:b:main_component"),
    ("inject:1:1:#7:replace", {0: 2}, "inject:2:1:#7:replace"),
    ("patch:1:2:abc:-1", {2: "abd", 3: 0}, "patch:1:2:abd:0"),
    ("steer:1:2:#4:#5:2.0", {4: "-3.5"}, "steer:1:2:#4:#5:-3.5"),
    ("steer_prompts:1:2:abc:abd:2.0:-1:-1", {4: 4, 6: 0}, "steer_prompts:1:2:abc:abd:4.0:-1:0"),
    (EVERYWHERE, {1: 9}, "Layer 9 does not exist."),
    (EVERYWHERE, {1: None}, "“Layer” can't be ''. Type a whole number."),
    (EVERYWHERE, {3: "first"}, "can't be 'first'. Type “all”, or whole numbers with commas."),
    (EVERYWHERE, {4: "resample"}, "The other prompt is empty."),
    (EVERYWHERE, {0: "head_output"}, "needs a head"),
    ("steer:1:2:#4:#5:2.0", {4: "1e9"}, "The strength 1e+09 is too large."),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "made"), CHANGES)
def test_a_card_changes_its_edit(
    pair: tuple[Any, RunRef, Selection], old: str, new: dict[int, Any], made: str
) -> None:
    service, run, selection = pair
    chosen = selection.model_copy(update={"edits": (f"~{HERE_NOW}", old)})
    kind, parts = cards.parts_of(old)
    slots = zip(cards.SLOTS[kind], parts, strict=True)
    values = [unescaped(part) if slot.kind == "text" else part for slot, part in slots]
    values = [new.get(place, value) for place, value in enumerate(values)]
    before, after_change, problem = cards.change_card(service, run, chosen, 1, values)
    assert before == old
    if problem:
        assert made in problem
        return
    assert after_change == made
    swapped = after(urlencode({"swap": f"edits:{old},{made}"}), now=chosen).selection.edits
    assert swapped == (f"~{HERE_NOW}", made)


def test_the_answers_part_at_the_first_token_that_differs(
    pair: tuple[TrueService, RunRef, Selection],
) -> None:
    import analysis

    service, run, selection = pair
    assert cards.answers(service, run.baseline, selection) == []
    asked = RunSpec(run.model, run.prompt, new_tokens=4)
    found = service.ask(run.model, asked)
    ids, size = found.token_ids, found.prompt_length
    long = run.model_copy(update={"new": len(ids) - size, "token_ids": ids, "prompt_length": size})
    model, edit = analysis.load_model(run.model), analysis.interventions.Ablate("mlp_output", 1)
    wanted = analysis.generate(model, ids[:size], len(ids) - size, interventions=[edit])
    answer = service.ask(trace_of(long), AnswerSpec(len(ids) - size, size))
    assert tuple(token.id for token in answer.tokens) == wanted[size:]
    shown = text(cards.answers(service, long, selection))
    if wanted == ids:
        assert "The answer stays the same" in shown
    else:
        assert "Answer without the edits" in shown
        assert "With the edits" in shown
