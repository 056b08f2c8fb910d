"""The position that a run opens at."""

from __future__ import annotations

from dataclasses import replace

import pytest

from analysis.contract.specs import Token
from dash_app.page.window import opening_position
from dash_app.state.selection import RunRef, Selection, resolve
from tests.support import synthetic


@pytest.mark.parametrize(
    ("answer", "opening"),
    [
        ([" Paris", "."], 1), ([" ", "1", "0"], 2), ([" ", "\n", "1"], 3), (["\n"], 1), ([], 1),
        ([" ", " "], 1),
    ],
)  # fmt: skip
def test_a_run_opens_where_the_first_visible_token_of_the_answer_is_predicted(
    answer: list[str], opening: int
) -> None:
    texts = ["5", " =", *answer]
    tokens = tuple(Token(at, text, text) for at, text in enumerate(texts))
    run = replace(synthetic.run_result(4, len(texts)), tokens=tokens, prompt_length=2)
    assert opening_position(run) == opening


def test_a_chosen_position_wins_and_an_old_reference_opens_at_the_prompts_end() -> None:
    ref = RunRef(
        model="m", prompt="p", new=2, token_ids=tuple(range(6)), prompt_length=3,
        layers=4, heads=2, vocab=9, layer=0,
    )  # fmt: skip
    assert resolve(Selection(), ref).pos == 2
    assert resolve(Selection(), ref.model_copy(update={"opening": 4})).pos == 4
    assert resolve(Selection(pos=1), ref.model_copy(update={"opening": 4})).pos == 1
