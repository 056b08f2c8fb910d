"""One request for one gesture, undo and redo, and what a reload keeps."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.support.browser_pages import IS_BUSY
from tests.support.time_limits import PATIENCE_S

pytestmark = [pytest.mark.browser, pytest.mark.real]
Visit = Callable[..., Any]


def drawn(page: Any, layer: int, position: int) -> None:
    """Wait until every view shows a state."""
    expect(page.locator("#lens-inspector")).to_contain_text(f"after layer {layer}")
    expect(page.locator("#curves-subtitle")).to_contain_text(f"position {position}")
    expect(page.locator("#attention-subtitle")).to_contain_text(f"In layer {layer},")
    expect(page.locator("#flow-subtitle")).to_contain_text(f"after layer {layer}, position")
    expect(page.locator(".token.is-selected .token-pos")).to_have_text(str(position))


#: Whether every job that a drawing wanted has ended.
ENDED = """(names) => names.every((name) => {
    const stored = (id) => window.dash_component_api.getLayout(id).props.data;
    const wanted = stored(`${name}-wanted`);
    return !wanted || stored(`${name}-ready`)?.of === wanted;
})"""
DRAWINGS = ("lens", "emergence", "curves", "attention", "contributions", "flow", "ledger", "story")


def wait_until_idle(page: Any) -> None:
    """Wait until every job has ended, and its result is drawn."""
    ends, idle = time.monotonic() + PATIENCE_S, 0
    while idle < 10:
        assert time.monotonic() < ends, "the page does not come to rest"
        page.wait_for_timeout(100)
        is_idle = page.evaluate(ENDED, DRAWINGS) and not page.evaluate(IS_BUSY)
        idle = idle + 1 if is_idle else 0


def test_a_move_to_a_memoised_state_is_one_request(visit: Visit) -> None:
    page = visit("?row=20&pos=3&layer=19")
    drawn(page, 19, 3)
    sent: list[str] = []

    def note(request: Any) -> None:
        if "_dash-update-component" in request.url and "&job=" not in request.url:
            sent.append(request.url)

    for key, layer in (("ArrowUp", 20), ("ArrowDown", 19)):  # the second is memoised
        wait_until_idle(page)
        page.on("request", note)
        sent.clear()
        page.keyboard.press(key)
        drawn(page, layer, 3)
        wait_until_idle(page)
        page.remove_listener("request", note)
    assert len(sent) == 1


def test_a_selection_is_undone_and_redone_and_a_reload_keeps_the_draft(visit: Visit) -> None:
    page = visit("?row=20&pos=3&layer=19")
    drawn(page, 19, 3)
    page.locator(".token").nth(1).click()
    expect(page.locator(".token.is-selected .token-pos")).to_have_text("1")
    page.keyboard.press("Control+z")
    drawn(page, 19, 3)
    page.click("[data-step='1']")
    expect(page.locator(".token.is-selected .token-pos")).to_have_text("1")

    page.fill("#run-prompt", "A draft")
    page.reload()
    expect(page.locator("#run-prompt")).to_have_value("A draft")
    expect(page.locator(".token.is-selected .token-pos")).to_have_text("1")

    page.click("#run-button")
    expect(page.locator("#tokens-strip")).to_contain_text("draft")
    page.fill("#run-prompt", "a " * 10_001)
    page.click("#run-button")
    expect(page.locator("#alert")).to_contain_text("The prompt has 20,002 characters.")
    expect(page.locator("#alert")).to_contain_text("The views still show “A draft”.")


@pytest.mark.full
def test_an_example_can_be_opened_and_undone(visit: Visit) -> None:
    page = visit()
    expect(page.locator("#story-text")).to_contain_text("Paris")
    page.click("#menu-examples > summary")
    page.click(".example:has-text('A mistake')")
    expect(page.locator("#story-text")).to_contain_text("Sydney")
    expect(page.locator("#run-prompt")).to_have_value("The capital of Australia is")
    page.click(".alternative:has-text('Canberra')")
    expect(page.locator(".pin:has-text('Canberra')")).to_have_count(1)
    expect(page).to_have_url(re.compile("pins="))
    page.go_back()  # each change is an entry of the history: first the pin, then the example
    expect(page).not_to_have_url(re.compile("pins="))
    expect(page.locator("#story-text")).to_contain_text("Sydney")
    page.go_back()
    expect(page.locator("#story-text")).to_contain_text("Paris")
    expect(page.locator("#run-prompt")).to_have_value("The capital of France is")
    expect(page.locator(".pin:has-text('Canberra')")).to_have_count(0)
    page.go_forward()
    expect(page.locator("#story-text")).to_contain_text("Sydney")
    page.go_forward()
    expect(page).to_have_url(re.compile("pins="))
    expect(page.locator(".pin:has-text('Canberra')")).to_have_count(1)
