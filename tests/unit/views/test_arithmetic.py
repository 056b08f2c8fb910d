"""The verdict on the answer to a calculation: right, wrong, unfinished, or not a number."""

from __future__ import annotations

import pytest

from dash_app.views.story import judge, token_at, words


@pytest.mark.parametrize(
    ("prompt", "answer", "sentence"),
    [
        ("5 + 5 =", " 10\n", "The model's answer is right: 5 + 5 = 10."),
        ("5 + 5 =", " 10", "The model's answer is right: 5 + 5 = 10."),
        ("5 + 5 =", " 11.", "The model's answer 11 is wrong: 5 + 5 = 10."),
        ("5 + 5 =", " 1", "The model has written 1 so far; 5 + 5 = 10."),
        ("5 + 5 =", " 100\n", "The model's answer 100 is wrong: 5 + 5 = 10."),
        ("5 + 5 =", " ten", "The answer does not begin with a number; 5 + 5 = 10."),
        ("5 + 5 =", "", "The answer does not begin with a number; 5 + 5 = 10."),
        ("12345+54321=", "066666", "The model's answer is right: 12345 + 54321 = 66666."),
        ("12345+54321=", "66665,", "The model's answer 66665 is wrong: 12345 + 54321 = 66666."),
        ("12345+67890=", "08", "The model has written 08 so far; 12345 + 67890 = 80235."),
        ("12345+67890=", "0", "The model has written 0 so far; 12345 + 67890 = 80235."),
        ("12345+67890=", "09", "The model's answer 09 is wrong: 12345 + 67890 = 80235."),
        ("900+900=", "1,800", "The model's answer is right: 900 + 900 = 1800."),
        ("5 + 5 =", "10.5", "The model's answer 10.5 is wrong: 5 + 5 = 10."),
        ("5 + 5 =", "10.0", "The model's answer is right: 5 + 5 = 10."),
        ("5 - 8 =", " -3", "The model's answer is right: 5 - 8 = -3."),
        ("5 − 8 =", " −3", "The model's answer is right: 5 − 8 = -3."),
        ("7 × 8 =", "54 ", "The model's answer 54 is wrong: 7 × 8 = 56."),
        ("1230912 + 12391989 =", " 12391989", "The model's answer 12391989 is wrong:"
         " 1230912 + 12391989 = 13622901."),
    ],
)  # fmt: skip
def test_the_sentence_says_what_is_right(prompt: str, answer: str, sentence: str) -> None:
    verdict = judge(prompt, answer)
    assert verdict is not None
    assert words(verdict) == sentence


@pytest.mark.parametrize(
    "prompt", ["The capital of France is", "5 + 5", "5 + 5 = 10", "5 + 5 + 5 =", "x + 5 =", ""]
)
def test_other_prompts_have_no_verdict(prompt: str) -> None:
    assert judge(prompt, " 10") is None


@pytest.mark.parametrize(
    ("answer", "at"),
    [
        (" 66666", None), (" 66665", 5), (" 76666", 1), (" 666660", 6), ("066666", None),
        ("66,665", None), ("no", None), ("066766", 3), ("006666", None), ("0666661", 6),
    ],
)  # fmt: skip
def test_the_first_wrong_digit_is_a_place_in_the_answer(answer: str, at: int | None) -> None:
    verdict = judge("12345+54321=", answer)
    assert verdict is not None
    assert verdict.first_wrong == at


def test_every_sum_of_two_digits_is_judged_as_python_adds() -> None:
    for one in range(0, 100, 7):
        for other in range(0, 100, 9):
            right, wrong = (
                judge(f"{one} + {other} =", f" {one + other + off}\n") for off in (0, 1)
            )
            assert right is not None
            assert wrong is not None
            assert (right.is_right, wrong.is_right) == (True, False)


def test_a_character_is_found_in_its_token() -> None:
    assert [token_at([" ", "12", "", "3"], at) for at in range(5)] == [0, 1, 1, 3, None]
