"""The whole journey of a newcomer on the real model, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.real]

Visit = Callable[..., Any]
IMAGES = Path(__file__).parents[2] / "docs" / "img"
expect.set_options(timeout=30_000)  # a machine shared by several is slow

LONG = "The quick brown fox jumps over the lazy dog and runs on. " * 16
#: Where a node stands that the pointer can't miss, below the header, not the root itself.
TALLEST_NODE = """() => {
    const boxes = [...document.querySelectorAll("#flow-graph .sankey-node .node-rect")]
        .map((node) => node.getBoundingClientRect())
        .filter((box) => box.left > 40 && box.top > 80 && box.bottom < innerHeight);
    const right = Math.max(...boxes.map((box) => box.right));
    const [box] = boxes.filter((one) => one.right < right - 40).sort((a, b) => b.height - a.height);
    return [box.left + box.width / 2, box.top + box.height / 2];
}"""


def ready(page: Any) -> None:
    """Wait until every view has drawn."""
    page.wait_for_selector(".story-phrase")
    page.wait_for_selector("#lens-graph .heatmaplayer image")
    page.wait_for_selector("#curves-graph .scatterlayer .trace")
    page.wait_for_selector("#attention-graph .heatmaplayer image")
    page.wait_for_selector("#flow-graph .sankey-link", state="attached")
    page.wait_for_function("document.fonts.status === 'loaded'")
    page.wait_for_selector(".figure.is-loading", state="detached")


def cell(page: Any, row: int, pos: int) -> None:
    """Click a cell of the heatmap, found by its axes."""
    graph = page.locator("#lens-graph .js-plotly-plot")
    graph.scroll_into_view_if_needed()
    at = graph.evaluate(
        """(plot, [row, pos]) => {
            const {xaxis, yaxis} = plot._fullLayout;
            const box = plot.getBoundingClientRect();
            const across = box.left + xaxis._offset + xaxis.d2p(pos);
            return [across, box.top + yaxis._offset + yaxis.d2p(row)];
        }""",
        [row, pos],
    )
    if at[1] < 80 or at[1] > 860:
        page.mouse.wheel(0, at[1] - 450)
        page.wait_for_timeout(300)
        return cell(page, row, pos)
    page.mouse.move(at[0] - 2, at[1])
    page.mouse.click(at[0], at[1])
    return None


def shown_cell(page: Any) -> str:
    return page.locator("#lens-inspector").inner_text()


def snapshot(page: Any, name: str, *, full: bool = False) -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    expect(page.locator(".model-bar")).to_contain_text("adds up")
    page.mouse.move(2, 2)
    page.wait_for_timeout(500)
    page.screenshot(path=IMAGES / name, full_page=full)


def test_the_page_opens_on_a_finished_example(visit: Visit) -> None:
    page = visit()
    ready(page)
    expect(page.locator("#story-text")).to_contain_text("Paris")
    last_row = page.locator("#lens-graph .js-plotly-plot").evaluate(
        "plot => plot.data[0].text.at(-1).join(' ')"
    )
    assert "Paris" in last_row
    expect(page.locator(".token.is-answer").first).to_contain_text("Paris")
    expect(page.locator(".token-alternatives").first).to_contain_text("%")
    assert "row=" not in page.url
    page.evaluate("window.scrollTo(0, 0)")
    snapshot(page, "page.png", full=True)


def test_the_dark_page(visit: Visit) -> None:
    page = visit(dark=True)
    ready(page)
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    snapshot(page, "page-dark.png", full=True)


def test_one_selection_moves_every_view(visit: Visit) -> None:
    page = visit()
    ready(page)
    cell(page, 20, 3)
    expect(page.locator("#lens-inspector")).to_contain_text("row 20")
    expect(page.locator(".token.is-selected .token-pos")).to_have_text("3")
    expect(page.locator("#flow-subtitle")).to_contain_text("row 20, position 3")
    expect(page.locator("#curves-subtitle")).to_contain_text("position 3")
    expect(page.locator("#attention-subtitle")).to_contain_text("In layer 19")
    assert "row=20&pos=3" in page.url


def test_controls_and_keys_move_the_selection(visit: Visit) -> None:
    page = visit("?row=20&pos=3&layer=19")
    ready(page)
    page.locator("#attention-layer [role=slider]").focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#attention-subtitle")).to_contain_text("In layer 18")
    page.locator(".head", has_text=re.compile("^H2")).click()
    page.locator(".head", has_text=re.compile("^H5")).click()
    expect(page.locator(".head.is-selected")).to_have_count(2)
    page.wait_for_function(
        "document.querySelector('#attention-graph .js-plotly-plot').data.length === 2"
    )
    assert "layer=18" in page.url
    assert "heads=2,5" in page.url

    before = page.locator(".pin").count()
    page.locator(".bar-row[aria-pressed=false]").first.click()
    expect(page.locator(".pin")).to_have_count(before + 1)
    page.locator(".pin-remove").first.click()
    expect(page.locator(".pin")).to_have_count(before)

    page.keyboard.press("Escape")
    page.locator(".panel-title").first.click()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#lens-inspector")).to_contain_text("row 21")
    expect(page.locator(".token.is-selected .token-pos")).to_have_text("4")

    page.locator(".segment", has_text="Entropy").click()
    page.wait_for_function(
        "document.querySelector('#lens-graph .js-plotly-plot').data[0].colorbar"
        ".title.text.includes('entropy')"
    )


def test_an_address_shows_the_same_page_elsewhere(visit: Visit) -> None:
    page = visit("?row=20&pos=3&layer=18&heads=2,5&pins=314&curve=rank&theme=dark")
    ready(page)
    expect(page.locator("#lens-inspector")).to_contain_text("row 20")
    expect(page.locator("#attention-subtitle")).to_contain_text("In layer 18")
    expect(page.locator(".head.is-selected")).to_have_count(2)
    expect(page.locator(".pin")).to_have_count(1)
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    first = shown_cell(page)

    page.reload()
    ready(page)
    expect(page.locator("#lens-inspector")).to_contain_text("row 20")
    elsewhere = visit("?" + page.url.partition("?")[2])
    ready(elsewhere)
    expect(elsewhere.locator("#lens-inspector")).to_contain_text("row 20")
    assert shown_cell(page) == shown_cell(elsewhere) == first


def test_the_flow_answers_the_pointer(visit: Visit) -> None:
    page = visit()
    ready(page)
    expect(page.locator("#flow-subtitle")).to_contain_text("% of the flow")
    links = page.locator("#flow-graph .sankey-link")
    assert 10 < links.count() <= 301
    page.locator("#flow-graph").scroll_into_view_if_needed()
    faint = "els => els.filter(el => Number(getComputedStyle(el).fillOpacity) < 0.15).length"
    before = links.evaluate_all(faint)
    across, down = page.evaluate(TALLEST_NODE)
    page.mouse.move(across - 3, down)
    page.mouse.move(across, down)
    page.wait_for_selector("#flow-graph .hoverlayer .hovertext")
    page.wait_for_timeout(300)
    assert links.evaluate_all(faint) != before
    page.screenshot(path=IMAGES / "flow-hover.png")
    page.mouse.click(across, down)
    page.wait_for_url("**row=*")


def test_a_long_run_can_be_cancelled_and_run_again(visit: Visit) -> None:
    page = visit()
    ready(page)
    page.fill("#run-prompt", LONG)
    page.fill("#run-new", "40")
    page.click("#run-button")
    expect(page.locator("#run-cancel")).to_be_enabled()
    page.wait_for_function(
        "parseFloat(document.querySelector('#run-progress-fill').style.width) > 0"
    )
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


def test_examples_and_the_way_back(visit: Visit) -> None:
    page = visit()
    ready(page)
    page.click(".example:has-text('A mistake')")
    expect(page.locator("#story-text")).to_contain_text("Sydney")
    expect(page.locator("#run-prompt")).to_have_value("The capital of Australia is")
    page.click(".alternative:has-text('Canberra')")
    expect(page.locator(".pin")).to_have_count(2)
    page.go_back()
    expect(page.locator("#story-text")).to_contain_text("Paris")
    expect(page.locator("#run-prompt")).to_have_value("The capital of France is")
    page.go_forward()
    expect(page.locator("#story-text")).to_contain_text("Sydney")
    expect(page.locator(".pin")).to_have_count(2)


def test_bad_input_is_a_sentence_and_nothing_is_lost(visit: Visit) -> None:
    page = visit()
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


def test_an_address_with_nonsense_still_opens(visit: Visit) -> None:
    page = visit("?row=high&colour=pink&foo=1&pos=99&heads=1,x")
    ready(page)
    expect(page.locator(".alerts")).to_contain_text("row, colour, foo, heads")
    expect(page.locator(".alerts")).to_contain_text("pos")
    expect(page.locator("#story-text")).not_to_be_empty()


def test_an_unknown_model_leaves_a_page_to_go_on_with(visit: Visit) -> None:
    page = visit("?model=nope")
    expect(page.locator(".alerts")).to_contain_text("'nope'")
    expect(page.locator("#story-text")).to_contain_text("Nothing to show yet")
    page.click("#run-model")
    page.get_by_text("smollm2-135m-instruct", exact=True).last.click()
    page.click("#run-button")
    ready(page)
    expect(page.locator("#story-text")).to_contain_text("Paris")


def test_two_people_do_not_disturb_each_other(visit: Visit) -> None:
    first, second = visit(), visit("?prompt=5+%2B+5+%3D&new=2")
    ready(first)
    ready(second)
    cell(first, 12, 2)
    expect(first.locator("#lens-inspector")).to_contain_text("row 12")
    expect(second.locator("#lens-inspector")).to_contain_text("row 30")
    assert "Paris" in first.locator("#story-text").inner_text() or "pos=2" in first.url
    expect(second.locator("#run-prompt")).to_have_value("5 + 5 =")
