"""The tutorial, followed step by step: each thing that it says the page shows is there."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.support.browser_pages import until_drawn
from tests.support.pictures import IMAGES
from tests.support.repository import ROOT
from tests.support.workspace import close_sheet, inspect, open_pane

pytestmark = [pytest.mark.browser, pytest.mark.real, pytest.mark.full]
Visit = Callable[..., Any]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text("utf-8")
#: What the tutorial quotes from the page: the sentence of the run, and how that of the edit begins.
QUOTES = [
    " ".join(quote.replace("\n> ", " ").split())
    for quote in re.findall(r"^> (.+(?:\n> .+)*)", TUTORIAL, re.MULTILINE)
]
PARTS = re.findall(r"^\| (Layer \d+, [\w ]+) \| ([+−]\d+\.\d+) \|$", TUTORIAL, re.MULTILINE)


def test_the_page_shows_what_the_tutorial_says(visit: Visit) -> None:
    assert (len(QUOTES), len(PARTS)) == (2, 4)
    page = visit()
    until_drawn(page)
    expect(page.locator("#story-text")).to_contain_text(QUOTES[0])
    strip = page.locator("#tokens-strip")
    for text in ("77 %", "6.5 %", "1.2 %"):
        expect(strip).to_contain_text(text)

    open_pane(page, "contributions")
    rows = page.locator("#pane-contributions tbody tr")
    for number, (part, logit) in enumerate(PARTS):
        expect(rows.nth(number)).to_contain_text(part)
        expect(rows.nth(number)).to_contain_text(logit)
    page.locator("#pane-contributions").get_by_text("Layer 23, head 4").click()
    expect(page.locator("#pane-attention")).to_contain_text("reads ·France (3) most: 90 %")
    inspect(page, "head")
    for token in ("·France", "·Breton", "·French", "·Jacques"):
        expect(page.locator("#inspect-head")).to_contain_text(token)
    until_drawn(page)
    page.screenshot(path=IMAGES / "tutorial-head.png")

    page.locator("[data-sheet=sheet-change]").click()
    choices = page.get_by_role("group", name="Head 4 of layer 23")
    choices.get_by_text("Zero here").click()
    close_sheet(page)
    expect(page.locator("#story-text")).to_contain_text(QUOTES[1])
    expect(page.locator("#edits-cards")).to_contain_text("Difference")
    until_drawn(page)
    page.screenshot(path=IMAGES / "tutorial-edit.png")


def test_the_pair_of_the_tutorial_shows_what_it_says(visit: Visit) -> None:
    page = visit("?page=compare")
    page.get_by_role("button", name="Compare: A fact").click()
    caption = page.locator("#compare-caption")
    expect(caption).to_contain_text("All cells are measured.")
    expect(page.locator("#compare-clean")).to_have_value("The capital of France is")
    expect(page.locator("#compare-corrupted")).to_have_value("The capital of Italy is")
    drawn = page.evaluate(
        """() => document.querySelector("#compare-graph .js-plotly-plot")
            .calcdata[0][0].z.map((line) => Array.from(line))"""
    )
    assert drawn[23][3] == pytest.approx(1, abs=0.05)
    assert drawn[23][4] == pytest.approx(0, abs=0.05)
    assert drawn[24][3] == pytest.approx(0, abs=0.05)
    assert drawn[24][4] == pytest.approx(1, abs=0.05)
    page.screenshot(path=IMAGES / "tutorial-patching.png")
    page.get_by_role("button", name="Patch: Layer and head").click()
    expect(page.locator("#compare-strongest button").first).to_contain_text("+0.93")
    expect(page.locator("#compare-strongest button").first).to_contain_text("23")
