"""A reader's history, collections and first minute, in a browser on the default model."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.test_journey import ready, until
from tests.support.browser_pages import new_context, new_page, until_at_rest
from tests.support.servers import Servers

pytestmark = [pytest.mark.browser, pytest.mark.real]

#: The page shows the tour to people only, and a browser in a test says that it is driven.
AS_A_PERSON = "Object.defineProperty(Navigator.prototype, 'webdriver', { get: () => false })"
#: Sides of the visible step and of the part that it points at.
POINTS_AT = """() => {
    const step = document.querySelector(".tour-step:not([hidden])");
    const target = document.querySelector(step.dataset.tourTarget);
    const sides = (each) => {
        const { left, right, top, bottom } = each.getBoundingClientRect();
        return [left, right, top, bottom];
    };
    return { step: sides(step), target: sides(target), focused: document.activeElement === step,
             marked: target.matches("[data-toured]"), room: [innerWidth, innerHeight] };
}"""
#: Parts that a step points at and that have no place on the page.
MISSING_PARTS = """() => {
    document.querySelector("#tour [data-later]").dispatchEvent(new Event("draw"));
    const steps = [...document.querySelectorAll("#tour [data-tour-target]")];
    const missing = steps.map((step) => step.dataset.tourTarget)
        .filter((target) => !document.querySelector(target)?.getClientRects().length);
    return [steps.length, missing];
}"""


def open_history(page: Any) -> None:
    page.click("[data-page-link=history]")
    page.wait_for_selector(".history-table")


def add_view(page: Any, panel: str, note: str) -> None:
    page.click(f".panel-{panel} [data-add-view]")
    page.wait_for_selector("#add-target option", state="attached")
    page.fill("#add-note", note)
    page.click("[data-add-save]")
    page.wait_for_selector(".added-toast >> text=Added to")
    page.click(".added-toast .btn-close")
    page.wait_for_selector(".added-toast", state="detached")


def test_a_run_is_listed_reopened_without_computing_and_deleted(visit: Callable[..., Any]) -> None:
    page = visit("?prompt=7+2+9+4+7+2&new=2")
    ready(page)
    page.fill("#run-prompt", "The capital of Italy is")
    page.click("#run-button")
    page.wait_for_selector(".story-phrase >> text=Rome")
    ready(page)
    open_history(page)
    rows = page.locator(".history-table tbody tr")
    until(page, "document.querySelectorAll('.history-table tbody tr').length === 2")
    assert "The capital of Italy is" in rows.nth(0).inner_text()
    assert "7 2 9 4 7 2" in rows.nth(1).inner_text()
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.post_data or ""))
    rows.nth(1).locator("a").click()
    until(page, "document.querySelector('#run-prompt').value === '7 2 9 4 7 2'")
    ready(page)
    assert any('"output":"..request.data' in body for body in sent)
    runs = [body for body in sent if '"output":"run-last.data"' in body]
    assert not [body for body in runs if '"property":"data","value":null' not in body]
    assert page.locator("#page-history").is_hidden()
    open_history(page)
    until_at_rest(page)  # the list is drawn again after the run that was reopened is counted
    delete = page.locator(".history-table tbody tr", has_text="Italy").locator("button")
    delete.focus()
    page.keyboard.press("Enter")
    assert "for good" in delete.inner_text()
    page.keyboard.press("Enter")
    until(page, "document.querySelectorAll('.history-table tbody tr').length === 1")
    assert "Italy" not in page.inner_text("#history-list")


def check_document(page: Any, link: str, titles: list[str]) -> None:
    """The document has every view with its picture, and loads nothing else."""
    requests: list[str] = []
    page.on("request", lambda sent: requests.append(sent.url))
    page.goto(link)
    assert page.locator("h2").all_inner_texts() == [
        f"{number}. {title}" for number, title in enumerate(titles, 1)
    ]
    assert page.locator("img").evaluate_all("(all) => all.every((each) => each.naturalWidth > 300)")
    assert not [
        url for url in requests if not url.startswith(("data:", link)) and "favicon" not in url
    ]


@pytest.mark.full
def test_a_collection_keeps_pictures_and_notes_and_is_shared_as_one_document(
    visit: Callable[..., Any], browser: Any, server: Servers
) -> None:
    page = visit("?row=20&pos=3")
    ready(page)
    add_view(page, "lens", "See row 20.")
    add_view(page, "flow", "Much is residual.")
    open_history(page)
    page.wait_for_selector(".item-picture")
    until(
        page,
        "[...document.querySelectorAll('.item-picture')].every((each) => each.naturalWidth > 300)",
    )
    assert page.locator(".item-note").all_inner_texts() == ["See row 20.", "Much is residual."]
    page.click("[data-history=down]")
    until(page, "document.querySelector('.item-note').textContent === 'Much is residual.'")
    page.click("[data-history=share]")
    link = page.locator(".collection a", has_text="/collections/").get_attribute("href")

    context = new_context(browser)
    console: list[str] = []
    other = new_page(context, console)
    check_document(other, link, page.locator(".item-title").all_inner_texts())
    other.locator("a", has_text="Open this view").nth(1).click()
    ready(other)
    until(other, "document.querySelector('.token.is-selected .token-pos').textContent === '3'")
    other.click("[data-page-link=history]")
    other.wait_for_selector(".history-table")
    assert "There are no collections yet." in other.inner_text("#history-collections")
    context.close()
    assert console == []


def test_the_first_visit_points_at_four_parts_once(browser: Any, server: Servers) -> None:
    context = new_context(browser)
    context.add_init_script(AS_A_PERSON)
    console: list[str] = []
    page = new_page(context, console)
    page.goto(server.url)
    # A quick reader presses Next before the pictures are drawn: each part has its place by then.
    page.wait_for_selector("html[data-run=shown]", state="attached")
    assert page.evaluate(MISSING_PARTS) == [4, []]
    seen = []
    for _ in range(4):
        page.wait_for_selector(".tour-step:not([hidden])")
        found = page.evaluate(POINTS_AT)
        seen.append(page.inner_text(".tour-step:not([hidden]) h2"))
        assert found["focused"]
        assert found["marked"]
        left, right, top, bottom = found["step"]
        assert left >= 0
        assert top >= 0
        assert right <= found["room"][0]
        assert bottom <= found["room"][1]
        page.keyboard.press("Tab")
        page.locator(".tour-step:not([hidden]) .btn-primary").press("Enter")
    assert len(set(seen)) == 4
    assert page.locator(".tour-step:not([hidden])").count() == 0
    page.reload()
    ready(page)
    page.wait_for_timeout(1500)  # longer than the tour waits before it starts
    assert page.locator(".tour-step:not([hidden])").count() == 0
    page.click("[data-sheet=sheet-help]")
    page.click("#sheet-help [data-tour=start]")
    page.wait_for_selector(".tour-step:not([hidden])")
    page.keyboard.press("Escape")
    assert page.locator(".tour-step:not([hidden])").count() == 0
    context.close()
    assert console == []


@pytest.mark.full
def test_the_page_reads_well_without_a_mouse(visit: Callable[..., Any]) -> None:
    page = visit("?prompt=" + "a+%21%3D+b+-%3E+c+%3C%3D+d")
    ready(page)
    assert page.get_attribute("html", "lang") == "en"
    assert page.locator("h1").all_inner_texts() == ["Stratascope"]
    for where in ("#run-prompt", ".token-text", ".cell-text", "#curves-graph text"):
        style = "(each) => getComputedStyle(each).fontVariantLigatures"
        assert page.locator(where).first.evaluate(style) == "none", where
    page.evaluate("document.activeElement?.blur()")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip-link"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    page.click("[data-sheet=sheet-attention]")
    term = page.locator("#sheet-attention .term", has_text=re.compile("residual stream"))
    term.focus()
    assert "every block reads and adds to" in page.inner_text("#definition")
    assert term.get_attribute("aria-describedby") == "definition"
    page.keyboard.press("Escape")
    assert page.locator("#definition").is_hidden()
