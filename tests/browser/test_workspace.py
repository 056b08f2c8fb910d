"""The workspace in a real browser: what is in view, arrangement, accessibility, size, old links."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.support.browser_pages import until_drawn
from tests.support.pictures import IMAGES
from tests.support.repository import ROOT
from tests.support.workspace import open_pane, open_sheet

pytestmark = [pytest.mark.browser, pytest.mark.real]

Visit = Callable[..., Any]
AXE = (ROOT / "tests" / "support" / "axe" / "axe.min.js").read_text("utf-8")
#: Faults that axe-core calls serious or critical: [rule, impact, elements].
FAULTS = """async () => {
    const rules = {"color-contrast": {enabled: true}};
    const found = await axe.run(document, {resultTypes: ["violations"], rules});
    return found.violations
        .filter((one) => ["serious", "critical"].includes(one.impact))
        .map((one) => [one.id, one.impact, one.nodes.map((node) => node.html.slice(0, 160))]);
}"""
SEEN = ("#lens-graph", "#inspect-cell", "#curves-graph", "#attention-graph", "#flow-graph-box")
#: Elements of the page on opening, with those in its head (``benchmarks/page.py``).
MOST_ELEMENTS = 1500
SIZES = ((1280, 720), (1440, 900), (1920, 1080))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
def test_all_views_are_in_view_on_opening(visit: Visit, size: tuple[int, int]) -> None:
    page = visit()
    page.set_viewport_size({"width": size[0], "height": size[1]})
    until_drawn(page)
    overflow = "() => document.documentElement.scrollHeight - innerHeight"
    assert page.evaluate(overflow) <= 0
    assert page.evaluate("document.querySelectorAll('*').length") <= MOST_ELEMENTS
    boxes = {name: page.locator(name).bounding_box() for name in SEEN}
    for name, box in boxes.items():
        assert box["x"] >= 0, name
        assert box["y"] >= 0, name
        assert box["width"] > 120, (name, box)
        assert box["height"] > 90, (name, box)
        assert box["x"] + box["width"] <= size[0] + 1, (name, box)
        assert box["y"] + box["height"] <= size[1] + 1, (name, box)


def no_faults(page: Any) -> None:
    found = page.evaluate(FAULTS)
    assert found == [], json.dumps(found, indent=1, ensure_ascii=False)


LIGHT = pytest.param(False, id="light", marks=pytest.mark.full)


@pytest.mark.parametrize("dark", [LIGHT, pytest.param(True, id="dark")])
@pytest.mark.parametrize("shown", ["explore", "compare", "tasks", "model", "history"])
def test_no_page_has_a_serious_fault(visit: Visit, shown: str, dark: bool) -> None:
    page = visit("" if shown == "explore" else f"?page={shown}", dark=dark)
    page.wait_for_selector("#ledger-badge .is-ok")
    page.evaluate(AXE)
    if shown == "explore":
        until_drawn(page)
        no_faults(page)
        open_sheet(page, "lens")
    no_faults(page)


def test_the_arrangement_is_part_of_the_link(visit: Visit) -> None:
    page = visit()
    until_drawn(page)
    open_pane(page, "contributions")
    page.locator("[data-fold=attention]").click()
    page.locator("[data-widen=flow]").click()
    expect(page).to_have_url(re.compile("wide=flow&folded=attention&panes=contributions"))
    wide = page.locator(".panel-flow").bounding_box()
    assert wide["width"] > 1200
    again = visit("?" + page.url.partition("?")[2])
    until_drawn(again)
    assert again.locator(".panel-flow").bounding_box() == wide
    again.keyboard.press("Escape")
    expect(again.locator(".panel-attention .pane")).to_be_hidden()
    expect(again.locator("#contributions-table table")).to_be_visible()


def test_the_arrangement_is_remembered_without_a_link(visit: Visit) -> None:
    page = visit()
    until_drawn(page)
    page.locator("[data-fold=inspector]").click()
    expect(page).to_have_url(re.compile("folded=inspector"))
    page.goto(page.url.partition("?")[0])
    until_drawn(page)
    expect(page.locator(".panel-inspector .pane")).to_be_hidden()
    page.locator("[data-fold=inspector]").click()
    expect(page.locator(".panel-inspector .pane")).to_be_visible()


def test_two_panels_swap_their_places_by_keyboard(visit: Visit) -> None:
    page = visit()
    until_drawn(page)
    panels = [page.locator(".panel-lens"), page.locator(".panel-attention")]
    lens, attention = (panel.bounding_box() for panel in panels)
    assert lens["x"] < attention["x"]
    panels[0].locator("summary").focus()
    page.keyboard.press("Enter")
    entry = panels[0].get_by_role("button", name="Swap with Attention")
    expect(entry).to_be_visible()
    for _ in range(panels[0].locator(".dropdown-item").count()):
        page.keyboard.press("Tab")
        if entry.evaluate("one => one === document.activeElement"):
            break
    expect(entry).to_be_focused()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("order=attention,flow,curves,lens,inspector"))
    lens, attention = (panel.bounding_box() for panel in panels)
    assert lens["x"] > attention["x"]
    page.goto(page.url.partition("?")[0])  # without a link it is remembered
    until_drawn(page)
    expect(page.locator(".panel-attention")).to_have_attribute("data-place", "a")
    page.set_viewport_size({"width": 720, "height": 900})  # stacked in the same order
    tops = [page.locator(f".panel-{name}").bounding_box()["y"] for name in ("attention", "flow")]
    assert tops == sorted(tops)


#: Notes each element that gets the focus, and those that get it without being visible.
WATCH = """() => {
    window.visited = new WeakSet();
    window.unseen = [];
    document.addEventListener("focusin", ({target}) => {
        window.visited.add(target);
        if (!target.checkVisibility({visibilityProperty: true})) {
            window.unseen.push(target.outerHTML.slice(0, 160));
        }
    });
}"""
#: The visible controls in a part of the page that did not get the focus yet.
MISSED = """(part) => [...document.querySelectorAll(
        "a[href], button, input, select, textarea, summary, [tabindex]")]
    .filter((one) => one.closest(part) && one.tabIndex >= 0 && !one.disabled)
    .filter((one) => one.checkVisibility({visibilityProperty: true}))
    .filter((one) => !window.visited.has(one))
    .map((one) => one.outerHTML.slice(0, 160))"""


def reach_all(page: Any, part: str) -> None:
    """Press Tab until each control of a part had the focus; a late drawing costs another round."""
    for _ in range(3 * len(page.evaluate(MISSED, part))):
        page.keyboard.press("Tab")
        if not page.evaluate(MISSED, part):
            break
    assert page.evaluate(MISSED, part) == []
    assert page.evaluate("() => window.unseen") == []


def test_tab_reaches_each_control_and_nothing_hidden(visit: Visit) -> None:
    page = visit()
    until_drawn(page)
    page.evaluate(WATCH)
    reach_all(page, "body")
    for pane in ("lens", "flow", "attention"):
        opener = page.locator(f"[data-sheet=sheet-{pane}]")
        opener.focus()
        page.keyboard.press("Enter")
        expect(page.locator(f"#sheet-{pane}")).to_have_css("transform", "none")
        reach_all(page, f"#sheet-{pane}")
        page.locator(f"#sheet-{pane} .btn-close").focus()  # Escape on a term closes its definition
        page.keyboard.press("Escape")
        expect(page.locator(".offcanvas")).to_have_count(0)
        expect(opener).to_be_focused()


def test_at_200_percent_the_views_are_stacked_and_can_be_reached(visit: Visit) -> None:
    page = visit()
    page.set_viewport_size({"width": 720, "height": 450})  # 1440 x 900 at 200 %
    until_drawn(page)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 720
    for name in SEEN:
        page.locator(name).scroll_into_view_if_needed()
        expect(page.locator(name)).to_be_in_viewport()
    sheet = open_sheet(page, "lens").bounding_box()
    assert sheet["x"] >= 0
    assert sheet["x"] + sheet["width"] <= 720


def test_old_links_open_the_same_view(visit: Visit) -> None:
    page = visit("?row=20&pos=3&layer=18&heads=2,5&pins=314&curve=rank&norm=unit&theme=dark")
    until_drawn(page)
    expect(page.locator("#page-explore")).to_be_visible()
    expect(page.locator("#lens-inspector")).to_contain_text("after layer 19")
    expect(page.locator("#flow-subtitle")).to_contain_text("% of the flow")
    expect(page.locator("#flow-subtitle")).to_contain_text("after layer 19")
    expect(page.locator("#attention-subtitle")).to_contain_text("In layer 18")
    expect(page.locator(".head.is-selected")).to_have_count(2)
    expect(page.locator("[data-chips=lens] .chip")).to_have_text("Norm: Unit ×")
    page.locator("[data-chips=lens] .chip").click()
    expect(page).not_to_have_url(re.compile("norm="))
    expect(page.locator("[data-chips=lens] .chip")).to_have_count(0)


@pytest.mark.full
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
def test_pictures(visit: Visit, size: tuple[int, int], dark: bool) -> None:
    page = visit(dark=dark)
    page.set_viewport_size({"width": size[0], "height": size[1]})
    until_drawn(page)
    page.wait_for_selector("#ledger-badge .is-ok")
    page.mouse.move(2, 2)
    page.wait_for_timeout(500)
    page.screenshot(path=IMAGES / f"workspace-{size[0]}{'-dark' if dark else ''}.png")
