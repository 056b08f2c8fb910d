"""The opened block and the weights in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.support.workspace import open_pane

pytestmark = [pytest.mark.browser, pytest.mark.real]


def test_a_block_is_opened_and_a_head_and_a_key_are_chosen(visit: Callable[..., Any]) -> None:
    page = visit("?row=12&pos=4")
    open_pane(page, "block")
    expect(page.locator("#block-subtitle")).to_contain_text("Layer 11 at ' is' (position 4)")
    expect(page.locator("#block-why")).to_contain_text("the model's own score is")
    page.locator("#block-body button", has_text="Head 5").click()
    expect(page.locator("#block-body h3", has_text="Head 5: what it reads")).to_be_visible()
    page.locator("#block-body button", has_text="·capital (1)").click()
    expect(page.locator("#block-why h3")).to_have_text("Why head 5 looks at ' capital' (1)")
    expect(page).to_have_url(re.compile(r"link=attention%3A11%3A1%3A4%3A5"))
    again = visit(page.url.partition("/?")[2].join(["?", ""]))
    expect(again.locator("#block-why h3")).to_have_text("Why head 5 looks at ' capital' (1)")


@pytest.mark.full
def test_the_circuits_of_a_head_are_read(visit: Callable[..., Any]) -> None:
    page = visit("?page=model&layer=3")
    said = page.locator("#weights-circuits .report-sentence")
    expect(said).to_contain_text("Layer 3, head 0: copying score")
    page.locator("#weights-circuits .segment", has_text="4").click()
    expect(said).to_contain_text("Layer 3, head 4: copying score")
    expect(page).to_have_url(re.compile("heads=4"))
