"""The token strip shows the tokens of the text exactly."""

from __future__ import annotations

from analysis.contract.specs import Token
from analysis.tracing.specs import RunSpec
from dash_app.views.tokens import chip, described, strip
from tests.support.fake_service import FakeService


def test_the_pointer_shows_piece_id_and_bytes() -> None:
    shown = described(Token(7, " <b>", "Ġ<b>", "203c623e"), added=False)
    assert shown == "piece Ġ<b>\nid 7\nbytes 20 3c 62 3e"


def test_tokens_of_a_template_are_marked_and_counted() -> None:
    import dataclasses

    run = dataclasses.replace(FakeService().run(RunSpec("fake", "The capital")), added=(0,))
    marked, plain = (chip(run, pos, 1).children for pos in (0, 1))
    assert "is-added" in marked.className
    assert "added by the chat template" in marked.title
    assert "is-added" not in plain.className


def test_text_without_a_token_is_reported() -> None:
    import dataclasses

    run = FakeService().run(RunSpec("fake", "The capital"))
    assert len(strip(run, 0)) == len(run.tokens)
    lost = Token(0, "<unk>", "<unk>", "", special=True)
    partly = dataclasses.replace(run, tokens=(lost, *run.tokens[1:]))
    shown = strip(partly, 0)
    assert len(shown) == len(run.tokens) + 1
    title = shown[0].children.children[0].children
    assert title == f"1 of the prompt's {run.prompt_length} tokens is unknown."
