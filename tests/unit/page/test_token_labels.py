"""Labels of tokens, and the sentence."""

from __future__ import annotations

import pytest

from analysis.contract.specs import Token
from dash_app.page.token_labels import (
    LIMIT,
    label,
    markup,
    percent,
    plain,
    quoted,
    row_name,
    shorten,
    width,
)
from dash_app.views.story import story_phrases
from tests.support import synthetic


def token(text: str, raw: str = "", data: str = "", *, special: bool = False) -> Token:
    return Token(1, text, raw or text, data, special)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (token(" Paris"), "·Paris"),
        (token("Paris"), "Paris"),
        (token("\n"), "↵"),
        (token("\n\n"), "↵↵"),
        (token("\t\tx"), "⇥⇥x"),
        (token(" "), "␣"),
        (token(" " * 12), "␣×12"),
        (token("a "), "a·"),
        (token("·"), "U+00B7"),
        (token("\u202e"), "U+202E"),
        (token("\u00a0"), "U+00A0"),
        (token("\x07"), "\\x07"),
        (token("<|im_start|>", special=True), "<|im_start|>"),
        (token("", "▁"), "▁"),
        (token("", ""), "(empty)"),
        (token("日本語"), "日本語"),
        (token("مرحبا"), "\u2068مرحبا\u2069"),
        (token("👩‍👩‍👧"), "👩‍👩‍👧"),
        (token("e\u0301"), "e\u0301"),
        (token("\ufffd", "Ð", "d0"), "⟨D0⟩"),
        (token(" \ufffd", "ĠâĢ", "20e280"), "·⟨E2 80⟩"),
        (token("\ufffd", "<0xE2>"), "⟨E2⟩"),
        (token("\ufffd", "x", "efbfbd"), "\ufffd"),
        (token("<b>x</b>"), "<b>x</b>"),
    ],
)
def test_special_and_invisible_tokens_are_shown_clearly(given: Token, shown: str) -> None:
    assert label(given) == shown


def test_text_from_right_to_left_is_isolated_once_and_costs_no_width() -> None:
    hebrew = token(" שלום")
    assert label(hebrew) == "\u2068·שלום\u2069"
    assert quoted(hebrew) == "'\u2068 שלום\u2069'"
    assert markup(label(hebrew)) == label(hebrew)
    assert plain(label(hebrew)) == "·שלום"
    assert width(label(hebrew)) == 5
    assert label(token("12 Paris")) == "12 Paris"


def test_rows_are_named_and_texts_cut_to_the_cell() -> None:
    assert [row_name(row) for row in (0, 1, 30)] == ["embedding", "after layer 0", "after layer 29"]
    assert shorten("x" * 100, 10) == "x" * 9 + "…"
    assert shorten("x" * 10, 10) == "x" * 10
    assert shorten("語" * 9, 8) == "語" * 3 + "…"


@pytest.mark.parametrize("text", ["x" * 100, "語" * 60, "👩‍👩‍👧" * 40, "e\u0301" * 90])
def test_long_tokens_are_shortened_with_a_mark(text: str) -> None:
    short = label(token(text))
    assert width(short) <= LIMIT
    assert short.endswith("…")
    assert not short[:-1].endswith("\u200d")


def test_a_short_text_is_not_shortened() -> None:
    assert shorten("abc", 3) == "abc"


@pytest.mark.parametrize("text", ["<b>x</b>", "</a>", "&amp;", "&lt;", "$x^2$", "a < b & c > d"])
def test_markup_leaves_plotly_nothing_to_interpret(text: str) -> None:
    safe = markup(text)
    assert "<" not in safe
    assert ">" not in safe
    assert "$" not in safe
    assert plain(safe) == text


def test_markup_isolates_right_to_left_text() -> None:
    assert markup("مرحبا") == "\u2068مرحبا\u2069"
    assert markup("abc") == "abc"


def test_quotes_keep_one_leading_space() -> None:
    assert quoted(token(" Paris")) == "' Paris'"
    assert quoted(token("  x")) == "'··x'"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.834, "83 %"),
        (0.0421, "4.2 %"),
        (0.0003, "0.03 %"),
        (1e-9, "<0.01 %"),
        (0.0, "0 %"),
        (1.0, "100 %"),
        (0.99999, ">99.9 %"),
        (0.9982, "99.8 %"),
        (float("nan"), "none"),
    ],
)
def test_percent(value: float, shown: str) -> None:
    assert percent(value) == shown


RUN = synthetic.run_result(layers=12, tokens=16)


def told(**changes: object) -> str:
    phrases = story_phrases(synthetic.story(12, 16, **changes), RUN)
    return "".join(text for text, _ in phrases)


def test_the_sentence_states_rows_and_component() -> None:
    assert told() == (
        "' Paris' first leads after layer 8, and for good after layer 10; the largest direct"
        " contribution"
        " to its logit is from layer 10, head 3 (+2.1 logits, reading ' Paris')."
    )


def test_the_sentence_for_an_mlp_names_no_head_or_source() -> None:
    text = told(step_head=None, step_source=None)
    assert (
        "the largest direct contribution to its logit is from layer 10, MLP (+2.1 logits)." in text
    )
    assert "head" not in text
    assert "reading" not in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"first_top1": None, "saturation": None}, "' Paris' never leads here (it ends at 62 %);"),
        (
            {"saturation": None},
            "first leads after layer 8, but does not keep the lead (it ends at 62 %);",
        ),
        ({"first_top1": 11}, "' Paris' takes the lead after layer 10 and keeps it;"),
        (
            {"first_top1": 0, "saturation": 0},
            "' Paris' takes the lead at the embedding and keeps it;",
        ),
        ({"step_logit": -0.5}, "the one that lowers it least is layer 10, head 3 (−0.5 logits"),
        ({"step_source": 13}, "reading its own position)"),
    ],
)
def test_the_sentence_is_honest(changes: dict[str, object], said: str) -> None:
    assert said in told(**changes)


def test_phrases_select_what_they_name() -> None:
    phrases = dict(story_phrases(synthetic.story(12, 16), RUN))
    assert phrases["after layer 8"] == {"row": 9, "layer": 8, "pos": 13}
    assert phrases["layer 10, head 3"] == {"layer": 10, "heads": [3], "row": 11, "pos": 13}
    assert phrases["' Paris'"] is not None
    assert phrases[" first leads "] is None
