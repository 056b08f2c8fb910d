"""The tour of a new user on the real model, in a real browser."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.support.browser_pages import FLOW_DRAWN
from tests.support.held_requests import held
from tests.support.pictures import IMAGES
from tests.support.time_limits import PATIENCE_S
from tests.support.workspace import close_sheet, inspect, open_pane, open_sheet, sheet_of

pytestmark = [pytest.mark.browser, pytest.mark.real]

Visit = Callable[..., Any]
#: The button's text after two quick clicks, when the delayed work is done.
COPIED_TWICE = """async () => {
    const [button, real, later] = [document.querySelector("[data-copy-address]"), setTimeout, []];
    window.setTimeout = (what, ms, ...more) =>
        ms === 1500 ? later.push(what) : real(what, ms, ...more);
    for (const clicks of [1, 2]) {
        button.click();
        while (later.length < clicks) await new Promise((done) => real(done, 10));
    }
    window.setTimeout = real;
    later.forEach((what) => what());
    return button.textContent;
}"""

LONG = "The quick brown fox jumps over the lazy dog and runs on. " * 16
#: Position of a large node below the header that is not the root.
TALLEST_NODE = """() => {
    const { svg, picture } = window.stratascope.flow;
    const frame = svg.getBoundingClientRect();
    const [x0, y0] = [frame.left + picture.margin.left, frame.top + picture.margin.top];
    const boxes = picture.nodes
        .map(([x, top, height]) => new DOMRect(x0 + x - 2, y0 + top, 4, height))
        .filter((box) => box.left > 40 && box.top > 80 && box.bottom < innerHeight);
    const right = Math.max(...boxes.map((box) => box.right));
    const [box] = boxes.filter((one) => one.right < right - 40).sort((a, b) => b.height - a.height);
    return [box.left + box.width / 2, box.top + box.height / 2];
}"""


def until(page: Any, true: str) -> None:
    """Wait until a JavaScript expression is true. The page's policy forbids eval."""
    ends = time.monotonic() + PATIENCE_S
    while not page.evaluate(f"() => Boolean({true})"):
        assert time.monotonic() < ends, true
        page.wait_for_timeout(100)


def ready(page: Any) -> None:
    """Wait until every view is drawn and no progress bar above the heatmap will disappear."""
    page.wait_for_selector(".story-phrase")
    page.wait_for_selector("#lens-graph .heatmaplayer image")
    page.wait_for_selector("#curves-graph .scatterlayer .trace")
    page.wait_for_selector("#attention-graph .heatmaplayer image")
    page.wait_for_selector(FLOW_DRAWN, state="attached")
    until(page, "document.fonts.status === 'loaded'")
    page.wait_for_selector(".figure.is-loading", state="detached")
    for bar in ("#run-progress", "#lens-progress"):
        page.wait_for_selector(f"{bar}.is-idle", state="attached")


def cell(page: Any, row: int, pos: int) -> None:
    """Click a cell of the heatmap, found by its axes."""
    graph = page.locator("#lens-graph .js-plotly-plot")
    graph.scroll_into_view_if_needed()
    at = graph.evaluate(
        """(plot, [row, pos]) => {
            const [{xaxis: x, yaxis: y}, box] = [plot._fullLayout, plot.getBoundingClientRect()];
            return [box.left + x._offset + x.d2p(pos), box.top + y._offset + y.d2p(row)];
        }""",
        [row, pos],
    )
    page.mouse.move(at[0] - 2, at[1])
    page.mouse.click(at[0], at[1])


def snapshot(page: Any, name: str) -> None:
    expect(page.locator(".model-bar")).to_contain_text("adds up")
    page.mouse.move(2, 2)
    page.wait_for_timeout(500)
    page.screenshot(path=IMAGES / name)


def test_the_page_opens_on_a_finished_example(visit: Visit) -> None:
    page = visit()
    ready(page)
    expect(page.locator("#story-text")).to_contain_text("Paris")
    expect(page.locator("#lens-graph .cell-texts")).to_contain_text("Paris")
    expect(page.locator(".token.is-answer").first).to_contain_text("Paris")
    expect(page.locator(".token-alternatives").first).to_contain_text("%")
    assert "row=" not in page.url
    expect(page.locator("#flow-subtitle")).to_contain_text("falls if a link is cut")
    expect(page.locator("#flow-subtitle")).not_to_contain_text("Measured: 0 links")
    snapshot(page, "page.png")


@pytest.mark.full
def test_the_dark_page(visit: Visit) -> None:
    page = visit(dark=True)
    ready(page)
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    snapshot(page, "page-dark.png")


def test_one_selection_moves_every_view(revisit: Visit) -> None:
    page = revisit("?method=proximity")
    ready(page)
    cell(page, 20, 3)
    expect(page.locator("#lens-inspector")).to_contain_text("after layer 19")
    expect(page.locator(".token.is-selected .token-pos")).to_have_text("3")
    expect(page.locator("#flow-subtitle")).to_contain_text("after layer 19, position 3")
    expect(page.locator("#curves-subtitle")).to_contain_text("position 3")
    expect(page.locator("#attention-subtitle")).to_contain_text("In layer 19")
    expect(page).to_have_url(re.compile("row=20&pos=3"))


def at_once(page: Any, *selectors: str) -> None:
    """Click each element before the page can redraw between two clicks."""
    page.evaluate("(all) => all.forEach((one) => document.querySelector(one).click())", selectors)


def test_a_click_before_the_redraw_does_not_undo_another(revisit: Visit) -> None:
    page = revisit("?row=20&pos=3&layer=18")
    ready(page)
    expect(page.locator(".head.is-selected")).to_have_count(1)  # the mean of all
    at_once(page, "#attention-heads .head:nth-child(2)", "#attention-heads .head:nth-child(4)")
    expect(page.locator(".head.is-selected")).to_have_count(2)

    before = page.locator(".pin").count()
    new = "#lens-inspector .bar-row[aria-pressed=false]"
    at_once(page, f"{new}:nth-child(2)", f"{new}:nth-child(4)")
    expect(page.locator(".pin")).to_have_count(before + 2)


def test_run_and_an_example_apply_in_the_order_of_the_clicks(revisit: Visit) -> None:
    page = revisit()
    ready(page)
    page.click("#menu-examples > summary")  # the examples are drawn now
    page.fill("#run-prompt", "5 + 5 =")
    at_once(page, "#run-button", ".example[data-go*='Australia']")
    expect(page.locator("#story-text")).to_contain_text("Sydney")
    expect(page.locator("#run-prompt")).to_have_value("The capital of Australia is")
    assert page.evaluate(COPIED_TWICE) == "Copy link"


def test_an_older_response_does_not_move_a_control_back(revisit: Visit) -> None:
    page = revisit("?row=20&pos=3&layer=19")
    ready(page)
    open_sheet(page, "attention")
    page.locator("#attention-layer [role=slider]").focus()
    with held(page, "query.data") as answers:
        for count in (1, 2):
            page.keyboard.press("ArrowLeft")
            answers.wait_for(count)
        answers.let_go(0)  # of layer 18, while 17 is chosen
        page.keyboard.press("ArrowLeft")
        answers.wait_for(3)
    page.wait_for_url("**layer=16*")
    expect(page.locator("#attention-subtitle")).to_contain_text("In layer 16")
    expect(page.locator("#attention-layer [role=slider]")).to_have_attribute("aria-valuenow", "16")

    open_sheet(page, "lens")
    find = page.locator("#lens-find input, input#lens-find")
    with held(page, "query.data") as answers:
        find.fill("cap")
        find.press("Enter")
        answers.wait_for(1)
        find.fill("of")
        find.press("Enter")
        answers.wait_for(2)
    expect(page.locator("#lens-state")).to_contain_text("'of' is in ")
    expect(find).to_have_value("of")
    close_sheet(page)
    page.click("[data-go='theme=dark']")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    open_sheet(page, "lens")
    expect(find).to_have_value("of")
    expect(page).to_have_url(re.compile("find=of"))


def test_keys_move_on_from_the_last_cell_and_a_double_click_pins(revisit: Visit) -> None:
    page = revisit("?row=20&pos=3&fold=2")
    ready(page)
    page.evaluate("""() => {
        const {selectCell, followSelection} = window.stratascope.page;
        const run = window.dash_component_api.getLayout("run").props.data;
        selectCell(22, 3);
        followSelection({row: 20, pos: 3}, run, {seen: 0});  // an answer to what was done before
        document.body.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowUp", bubbles: true}));
    }""")
    page.wait_for_url("**row=24*")

    token = page.evaluate("""() => {
        const plot = document.querySelector("#lens-graph .js-plotly-plot");
        const {rows, ids} = plot.layout.meta;
        const event = {timeStamp: performance.now()};
        plot.emit("plotly_click", {points: [{x: 2, y: 5}], event});
        const meta = {...plot.layout.meta, rows: rows.slice(1), ids: ids.slice(1)};
        plot.layout.meta = meta;  // one row less, as when the row that was chosen is folded away
        const {left, top} = plot.getBoundingClientRect();
        const at = {clientX: left + 9, clientY: top + 9, detail: 2, bubbles: true};
        plot.dispatchEvent(new MouseEvent("mouseup", at));
        return ids[5][2];
    }""")
    page.wait_for_url("**pins=*")
    assert str(token) in page.url.partition("pins=")[2].partition("&")[0].split(",")


def test_a_click_on_a_contribution_selects_its_head_or_row(revisit: Visit) -> None:
    page = revisit("?pos=4")
    ready(page)
    open_pane(page, "contributions")
    expect(page.locator("#contributions-subtitle")).to_contain_text("the logit of ' Paris'")
    rows = page.locator(".contributions tbody tr")
    expect(rows).to_have_count(21)
    with sheet_of(page, "contributions"):
        page.locator("#contributions-order").get_by_text("Layer").click()
    page.locator(".contributions button", has_text="Layer 0, head 2").click()
    expect(page).to_have_url(re.compile("layer=0&heads=2"))
    expect(page.locator("#attention-subtitle")).to_contain_text("In layer 0")
    expect(page.locator(".contributions button[aria-pressed=true]")).to_have_text("Layer 0, head 2")
    with sheet_of(page, "contributions"):
        page.locator("#contributions-count").get_by_text("All").click()
    expect(rows).to_have_count(1 + 30 * (9 + 1))
    page.locator(".contributions button", has_text="Layer 28, MLP").click()
    expect(page.locator("#lens-inspector")).to_contain_text("after layer 28")


def test_controls_and_keys_move_the_selection(revisit: Visit) -> None:
    page = revisit("?row=20&pos=3&layer=19")
    ready(page)
    with sheet_of(page, "attention"):
        page.locator("#attention-layer [role=slider]").focus()
        page.keyboard.press("ArrowLeft")
        expect(page.locator("#attention-subtitle")).to_contain_text("In layer 18")
    page.locator(".head", has_text=re.compile("^H2")).click()
    page.locator(".head", has_text=re.compile("^H5")).click()
    expect(page.locator(".head.is-selected")).to_have_count(2)
    until(page, "document.querySelector('#attention-graph .js-plotly-plot').data.length === 2")
    expect(page).to_have_url(re.compile("layer=18.*heads=2,5"))

    before = page.locator(".pin").count()
    inspect(page, "cell")  # the inspector showed the head
    page.locator(".bar-row[aria-pressed=false]").first.click()
    expect(page.locator(".pin")).to_have_count(before + 1)
    page.locator(".pin-remove").first.click()
    expect(page.locator(".pin")).to_have_count(before)

    page.locator(".panel-title").first.click()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#lens-inspector")).to_contain_text("after layer 20")
    expect(page.locator(".token.is-selected .token-pos")).to_have_text("4")

    open_sheet(page, "lens")
    page.locator("#menu-colour > summary").click()
    page.locator('[data-go="colour=entropy"]').click()
    until(
        page,
        "document.querySelector('#lens-graph .js-plotly-plot').data[0].colorbar"
        ".title.text.includes('entropy')",
    )


def test_an_address_shows_the_same_page_elsewhere(visit: Visit) -> None:
    page = visit("?row=20&pos=3&layer=18&heads=2,5&pins=314&curve=rank&theme=dark")
    ready(page)
    expect(page.locator("#lens-inspector")).to_contain_text("after layer 19")
    expect(page.locator("#attention-subtitle")).to_contain_text("In layer 18")
    expect(page.locator(".head.is-selected")).to_have_count(2)
    expect(page.locator(".pin")).to_have_count(1)
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    first = page.locator("#lens-inspector").inner_text()

    page.reload()
    ready(page)
    expect(page.locator("#lens-inspector")).to_contain_text("after layer 19")
    elsewhere = visit("?" + page.url.partition("?")[2])
    ready(elsewhere)
    expect(elsewhere.locator("#lens-inspector")).to_contain_text("after layer 19")
    for same in (page, elsewhere):
        expect(same.locator("#lens-inspector")).to_have_text(first, use_inner_text=True)


def test_the_flow_responds_to_the_pointer(revisit: Visit) -> None:
    page = revisit("?method=proximity")
    ready(page)
    expect(page.locator("#flow-subtitle")).to_contain_text("% of the flow")
    links = page.locator("#flow-canvas .flow-link")
    assert 10 < links.count() <= 300
    page.locator("#flow-canvas").scroll_into_view_if_needed()
    faint = "els => els.filter(el => Number(getComputedStyle(el).opacity) < 0.15).length"
    before = links.evaluate_all(faint)
    across, down = page.evaluate(TALLEST_NODE)
    page.mouse.move(across - 3, down)
    page.mouse.move(across, down)
    page.wait_for_selector(".flow-box")
    ends = time.monotonic() + PATIENCE_S
    while links.evaluate_all(faint) == before:
        assert time.monotonic() < ends
        page.wait_for_timeout(100)
    page.screenshot(path=IMAGES / "flow-hover.png")
    page.mouse.click(across, down)
    page.wait_for_url("**row=*")


@pytest.mark.full
def test_a_long_run_can_be_cancelled_and_run_again(revisit: Visit) -> None:
    page = revisit()
    ready(page)
    page.fill("#run-prompt", LONG)
    page.fill("#run-new", "40")
    with held(page, "run-last.data") as starts:
        page.click("#run-button")
        starts.wait_for(1)
        expect(page.locator("#run-progress")).to_have_class("job is-busy")
        expect(page.locator("#run-cancel")).to_be_disabled()  # there was nothing to cancel yet
        assert re.search(r"&turn=\d+$", starts.address(0))
    expect(page.locator("#run-cancel")).to_be_enabled()
    until(page, "parseFloat(document.querySelector('#run-progress-fill').style.width) > 0")
    expect(page.locator("#run-progress-label")).not_to_be_empty()

    page.locator(".token").nth(2).click()
    expect(page.locator(".token.is-selected .token-pos")).to_have_text("2")

    page.click("#run-cancel")
    expect(page.locator(".alerts")).to_contain_text("Cancelled")
    expect(page.locator("#run-cancel")).to_be_disabled()
    assert page.input_value("#run-prompt") == LONG

    page.fill("#run-prompt", "The capital of Australia is")
    page.fill("#run-new", "1")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#story-text")).to_contain_text("Sydney")
    expect(page.locator(".alerts")).to_be_empty()


def test_bad_input_shows_a_message_and_loses_nothing(revisit: Visit) -> None:
    page = revisit()
    ready(page)
    page.fill("#run-prompt", "")
    page.click("#run-button")
    expect(page.locator(".alerts")).to_contain_text("The prompt is empty")
    page.click("#alert-dismiss")
    expect(page.locator(".alerts")).to_be_empty()

    page.fill("#run-prompt", "word " * 600)
    page.click("#run-button")
    expect(page.locator(".alerts")).to_contain_text("The prompt has")
    assert page.input_value("#run-prompt") == "word " * 600
    snapshot(page, "error.png")
    expect(page.locator("#story-text")).to_contain_text("Paris")


def test_an_address_with_invalid_values_still_opens(visit: Visit) -> None:
    page = visit("?row=high&colour=pink&foo=1&pos=99&heads=1,x")
    ready(page)
    expect(page.locator(".alerts")).to_contain_text("row, colour, foo, heads")
    expect(page.locator(".alerts")).to_contain_text("pos")
    expect(page.locator("#story-text")).not_to_be_empty()


def test_the_page_works_after_an_unknown_model(visit: Visit) -> None:
    page = visit("?model=nope")
    expect(page.locator(".alerts")).to_contain_text("'nope'")
    expect(page.locator("#story-text")).to_contain_text("There is no result yet")
    expect(page.locator("#run-model")).to_have_value("nope")
    page.select_option("#run-model", "smollm2-135m-instruct")
    page.click("#run-button")
    ready(page)
    expect(page.locator("#story-text")).to_contain_text("Paris")


def test_two_users_do_not_disturb_each_other(visit: Visit) -> None:
    first, second = visit(), visit("?prompt=5+%2B+5+%3D&new=2")
    ready(first)
    ready(second)
    cell(first, 12, 2)
    expect(first.locator("#lens-inspector")).to_contain_text("after layer 11")
    expect(second.locator("#lens-inspector")).to_contain_text("after layer 29")
    expect(first).to_have_url(re.compile("pos=2"))
    assert "pos=" not in second.url
    expect(second.locator("#run-prompt")).to_have_value("5 + 5 =")
