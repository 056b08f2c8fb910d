"""Terms in the page's texts: one source, the first use only, and text otherwise unchanged."""

from __future__ import annotations

import re

import pytest
from dash import html

from dash_app.page.glossary import _PLAIN, define, definitions, with_terms
from tests.support.repository import ROOT

GLOSSARY = (ROOT / "docs" / "glossary.md").read_text("utf-8")


def text_of(parts: list[object]) -> str:
    return "".join(part if isinstance(part, str) else part.children for part in parts)


def terms_of(parts: list[object]) -> list[str]:
    return [part.children for part in parts if isinstance(part, html.Span)]


def test_every_entry_of_the_glossary_has_a_definition() -> None:
    entries = re.findall(r"^- \*\*([^*]+)\*\*", GLOSSARY, re.MULTILINE)
    assert len(entries) > 60
    assert not [name for name in entries if not definitions().get(name.lower())]


@pytest.mark.parametrize("mark", ["**", "`", "](", "\n"])
def test_definitions_are_plain_text(mark: str) -> None:
    assert not [name for name, meaning in definitions().items() if mark in meaning]


def test_a_definition_is_the_glossarys_own_text() -> None:
    assert definitions()["residual stream"] == (
        "the vector at each position that every block reads and adds to (Elhage et al. 2021,"
        ' "A Mathematical Framework for Transformer Circuits").'
    )


def test_words_that_are_left_alone_are_in_the_glossary() -> None:
    assert not _PLAIN - set(definitions())


def test_the_first_use_of_each_term_is_marked_and_the_text_stays() -> None:
    text = "Logit lens: the residual stream, decoded. The residual stream grows; two logit lenses."
    parts = with_terms(text)
    assert text_of(parts) == text
    assert terms_of(parts) == ["Logit lens", "residual stream"]


def test_plurals_are_marked_and_parts_of_words_are_not() -> None:
    assert terms_of(with_terms("Attention patterns of unembeddings")) == [
        "Attention patterns", "unembeddings",
    ]  # fmt: skip
    assert terms_of(with_terms("preablationed")) == []


def test_a_longer_term_wins_over_a_part_of_it() -> None:
    assert terms_of(with_terms("direct logit attribution")) == ["direct logit attribution"]


@pytest.mark.parametrize("text", ["", "no special word", "token, row and head"])
def test_text_without_special_terms_is_unchanged(text: str) -> None:
    assert with_terms(text) == ([text] if text else [])


def test_a_term_can_be_reached_by_the_keyboard() -> None:
    term = define("Row", "row 3")
    assert isinstance(term, html.Span)
    assert (term.children, term.tabIndex) == ("row 3", "0")
    assert "0 to L" in getattr(term, "data-definition")
    assert define("no such term") == "no such term"
