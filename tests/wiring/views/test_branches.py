"""Branches of an answer: made by a click or a text, kept in the link, forgotten with the prompt."""

from __future__ import annotations

import dataclasses

import pytest

from analysis.contract.specs import Token
from analysis.tracing.specs import RunResult, RunSpec
from dash_app.state.branches import MAX_BRANCHES, branch_name, taken, written
from dash_app.state.context import from_query, result_of, to_query
from dash_app.state.selection import RunRef, Selection, request_run, run_spec
from dash_app.state.update import _select, _submit
from dash_app.views import tokens
from dash_app.views.run import continue_with
from tests.support.components import text
from tests.support.fake_service import FakeService


@pytest.mark.parametrize("word", [" London", "a=b:c.d,e;f", "é 🙂", "%20", "\n"])
def test_a_branch_survives_the_link_and_names_its_token(word: str) -> None:
    for branch, wanted in (
        (taken((5, 6), 7, word), ((5, 6, 7), "")),
        (written((5, 6), word), ((5, 6), word)),
        (written((), word), ((), word)),
    ):
        kept = Selection(model="m", prompt="p", branch=branch, branches=(branch, "9=x"))
        again, ignored = from_query(to_query(kept, Selection()), Selection())
        assert not ignored
        assert again == kept
        spec = run_spec(again)
        assert (spec.begun, spec.own) == wanted
        assert branch_name(branch) == word


def test_a_click_on_an_alternative_continues_the_answer_from_it(
    service: FakeService, run_ref: RunRef
) -> None:
    result = result_of(service, run_ref)
    pos = run_ref.prompt_length
    strip = tokens.strip(result, pos - 1)
    (first, *_) = strip[pos].children[1].children  # the alternatives of the first answer token
    shown = Selection(
        model=run_ref.model, prompt=run_ref.prompt, new=run_ref.new, attempt=run_ref.attempt
    )
    after = _select(first.to_plotly_json()["props"]["data-go"], shown).selection
    token = next(
        int(one) for one in result.top_ids[pos - 1].tolist() if one != run_ref.token_ids[pos]
    )
    assert run_spec(after).begun == (token,)
    assert after.branches == (after.branch,)
    assert (after.pos, after.attempt) == (pos - 1, shown.attempt + 1)
    listed = text(tokens.strip(result, pos - 1, after.branch, after.branches)[pos])
    assert "own answer" in listed
    assert tokens.label_of(after.branch) in listed
    own = _select("branch=", after).selection
    assert (own.branch, own.branches) == ("", after.branches)  # kept, to come back to it


def test_a_text_of_ones_own_follows_the_selected_token(run_ref: RunRef) -> None:
    shown = Selection(model=run_ref.model, prompt=run_ref.prompt, attempt=run_ref.attempt)
    start, ids = run_ref.prompt_length, run_ref.token_ids
    early = continue_with(" x", shown.model_copy(update={"pos": 0}), run_ref)
    assert (run_spec(early).begun, run_spec(early).own, early.pos) == ((), " x", start - 1)
    late = continue_with(" x", shown.model_copy(update={"pos": start}), run_ref)
    assert (run_spec(late).begun, run_spec(late).own) == ((ids[start],), " x")
    assert continue_with("", shown, run_ref) == shown
    assert continue_with(" x", shown, None) == shown
    full = shown.model_copy(update={"branches": tuple(f"{n}=a" for n in range(MAX_BRANCHES))})
    kept = continue_with(" x", full, run_ref).branches
    assert len(kept) == MAX_BRANCHES
    assert kept[-1] == written((), " x")


def test_another_prompt_forgets_the_branches_and_more_tokens_do_not() -> None:
    shown = Selection(model="m", prompt="p", branch="5=x", branches=("5=x",), attempt=1)
    longer = request_run(shown, new=7)
    assert (longer.branch, longer.branches) == ("5=x", ("5=x",))
    other = _submit({"prompt": "q"}, shown).selection
    assert (other.branch, other.branches) == ("", ())
    example = _select("model=m&prompt=p&new=3", shown).selection
    assert (example.branch, example.new) == ("", 3)


def test_a_greedy_run_is_one_request_whatever_the_fields_of_sampling_say() -> None:
    greedy = Selection(model="m", prompt="p")
    turned = greedy.model_copy(update={"temperature": 0.5, "seed": 3, "nucleus": 0.5})
    assert run_spec(turned) == run_spec(greedy)
    drawn = run_spec(turned.model_copy(update={"sampling": "sampled"}))
    assert (drawn.sample, drawn.temperature, drawn.top_p, drawn.seed) == (True, 0.5, 0.5, 3)


def test_a_token_of_no_text_has_a_name() -> None:
    assert tokens.label_of(taken((), 3, "")) == tokens.label(Token(3, " ", " "), 12)


def answered(*words: Token) -> RunResult:
    """A run whose answer is these tokens."""
    run = FakeService().run(RunSpec("fake", "The capital", new_tokens=len(words)))
    return dataclasses.replace(run, tokens=(*run.tokens[: run.prompt_length], *words))


def test_a_branch_opens_on_compare_beside_the_own_answer(run_ref: RunRef) -> None:
    words = [Token(number, text, text, text.encode().hex()) for number, text in enumerate("abc")]
    half = Token(9, "\ufffd", "Ã", "c3")
    ref = run_ref.model_copy(update={"prompt": "The capital", "branch": "2=c"})
    button = tokens.compare_button(ref, answered(*words[:2]), answered(words[2], *words))
    opened = _select(button.to_plotly_json()["props"]["data-go"], Selection(attempt=3)).selection
    assert (opened.page, opened.clean, opened.corrupted) == (
        "compare", "The capitalab", "The capitalca"
    )  # fmt: skip
    assert opened.attempt == 3  # no other run
    again, _ = from_query(to_query(opened, Selection()), Selection())
    assert (again.clean, again.corrupted) == (opened.clean, opened.corrupted)
    refused = (
        (ref, answered(words[0]), answered(words[0], words[1]), "begin alike"),
        (ref, answered(half), answered(words[0]), "inside a character"),
        (ref.model_copy(update={"template": "on"}), answered(words[0]), answered(words[1]), "Chat"),
        (
            ref.model_copy(update={"prompt": "a" * 2000}),
            answered(words[0]),
            answered(words[1]),
            "2,000 characters",
        ),
    )
    for one, own, shown, said in refused:
        button = tokens.compare_button(one, own, shown)
        assert (button.disabled, said in button.title) == (True, True)


def test_only_the_strip_of_a_branch_offers_the_comparison(
    service: FakeService, run_ref: RunRef
) -> None:
    own = tokens.draw(service, run_ref, Selection(branches=("7=x",)))
    assert "compare" not in text(own[run_ref.prompt_length])
    branch = run_ref.model_copy(update={"branch": "7=x"})
    shown = tokens.draw(service, branch, Selection(branch="7=x", branches=("7=x",)))
    assert "compare" in text(shown[run_ref.prompt_length])
