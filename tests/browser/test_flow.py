"""The flow view in a real browser on the real model: hover, methods, links, table, causal check."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import expect

from analysis.flow_graph.options import FLOW_METHODS
from tests.support.browser_pages import until_at_rest
from tests.support.pictures import IMAGES
from tests.support.time_limits import PATIENCE_S
from tests.support.workspace import open_pane, open_sheet, sheet_of

pytestmark = [pytest.mark.browser, pytest.mark.real]

Visit = Callable[..., Any]
LABELS = ".flow-labels text:not([visibility=hidden])"
BARS = "#flow-graph .bars .point"
POINTS = "#flow-graph .scatterlayer .point"
KINDS = {"signed": BARS, "effect": POINTS}
#: The middle of the first line of the chart of effects.
ON_LINE = """() => {
    const plot = document.querySelector("#flow-graph .js-plotly-plot");
    const [{xaxis: x, yaxis: y}, box] = [plot._fullLayout, plot.getBoundingClientRect()];
    const [{x: [across], y: [down]}] = plot.data;
    return [box.left + x._offset + x.d2p(across), box.top + y._offset + y.d2p(down)];
}"""
FOX = "The quick brown fox jumps over the lazy dog and runs on to the river. "
PICTURES = {
    "fact": {"prompt": "The capital of France is", "new": 2},
    "induction": {
        "prompt": "K Q B R K Q B R K Q B",
        "new": 1,
        "start": "reweight",
    },
    "addition": {"prompt": "5 + 5 =", "new": 3, "pos": 5, "row": 30},
}
#: Faint links, which are drawn while the pointer is at one of their nodes.
COUNT_SHOWN = """() => [...document.querySelectorAll('#flow-canvas .flow-link.is-minor')].filter(
    (link) => Number(getComputedStyle(link).opacity) > 0.3).length"""
COUNT_LINKS = "window.stratascope.flow.picture.links.length"
COUNT_FAINT = "window.stratascope.flow.picture.links.filter((link) => !link[8]).length"
#: Middle of the visible node with most faint links.
BUSIEST = """() => {
    const count = {};
    const { svg, picture } = window.stratascope.flow;
    for (const link of picture.links.filter((link) => !link[8])) {
        count[link[1]] = (count[link[1]] || 0) + 1;
    }
    const { left, top } = svg.getBoundingClientRect();
    const { margin } = picture;
    const places = picture.nodes
        .map(([x, y, tall], index) => [count[index] || 0,
            new DOMRect(left + margin.left + x - 3, top + margin.top + y - 2, 6, tall + 4)])
        .filter(([many, box]) => many && box.height > 6 && box.top > 90
                                 && box.bottom < innerHeight);
    const [, box] = places.sort((a, b) => b[0] - a[0])[0];
    return [box.left + box.width / 2, box.top + box.height / 2];
}"""
#: A point on the widest drawn link of a kind where nothing covers it.
POINT_ON = """(kind) => {
    const drawn = `#flow-canvas .flow-link.is-${kind}:not(.is-minor)`;
    const links = [...document.querySelectorAll(drawn)]
        .sort((a, b) => b.getBoundingClientRect().height - a.getBoundingClientRect().height);
    for (const link of links) {
        const box = link.getBoundingClientRect();
        for (let part = 0.1; part < 1; part += 0.04) {
            for (let down = 0.05; down < 1; down += 0.05) {
                const at = [box.left + part * box.width, box.top + down * box.height];
                if (at[1] > 90 && document.elementFromPoint(...at) === link) {
                    return [...at, link.dataset.go];
                }
            }
        }
    }
    return null;
}"""


def until(page: Any, true: str) -> None:
    """Wait for an expression. The page forbids eval, so the test polls from outside."""
    ends = time.monotonic() + PATIENCE_S
    while not page.evaluate(true):
        assert time.monotonic() < ends, f"never true: {true}"
        page.wait_for_timeout(100)


def drawn(page: Any, kind: str = "#flow-canvas .flow-link") -> None:
    """Wait until the flow is drawn and no request is running."""
    page.wait_for_selector(kind, state="attached")
    page.wait_for_selector("#flow-graph-box.is-loading", state="detached")
    until(page, "document.fonts.status === 'loaded'")


def open_flow(show: Visit, **values: Any) -> Any:
    """Show the flow at an address, in a new page or in the one that the tests share.

    Links by proximity are drawn unless a method is given.
    """
    chosen = {"method": "proximity", **values}
    page = show(f"?{urlencode(chosen)}")
    drawn(page, KINDS.get(chosen["method"], "#flow-canvas .flow-link"))
    page.wait_for_selector(".story-phrase")
    page.wait_for_selector("#attention-graph .heatmaplayer image")
    page.wait_for_selector(".job.is-busy", state="detached")  # the elements below would move
    return page


def click(page: Any, x: float, y: float) -> None:
    page.mouse.move(x, y)
    page.mouse.click(x, y)


def test_hidden_links_appear_on_hover_without_a_request(revisit: Visit) -> None:
    page = open_flow(revisit)
    # All jobs have ended and their results are drawn: only the pointer could send a request.
    page.wait_for_selector("#ledger-badge .is-ok")
    until_at_rest(page)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    assert page.evaluate(COUNT_FAINT) > 20
    assert page.evaluate(COUNT_SHOWN) == 0
    page.mouse.move(*page.evaluate(BUSIEST))
    until(page, f"({COUNT_SHOWN})() > 2")
    expect(page.locator(".flow-box")).to_contain_text("of the flow")
    page.mouse.move(5, 300)
    until(page, f"({COUNT_SHOWN})() === 0")
    assert requests == []


def test_the_picture_zooms_and_moves_by_mouse_keys_and_buttons(revisit: Visit) -> None:
    page = open_flow(revisit)
    scene, picture = page.locator(".flow-scene"), page.locator(".flow-svg")
    whole = scene.get_attribute("transform")
    before, url = page.locator(LABELS).count(), page.url
    page.locator("[data-flow-zoom=in]").click()
    expect(picture).to_have_attribute("data-zoom", "1.50")
    box = picture.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -300)
    page.keyboard.up("Control")
    expect(picture).not_to_have_attribute("data-zoom", "1.50")
    until(page, f"document.querySelectorAll({LABELS!r}).length > {before}")  # room for more
    moved = scene.get_attribute("transform")
    page.mouse.down()
    page.mouse.move(middle[0] - 60, middle[1] - 40, steps=4)
    page.mouse.up()
    expect(scene).not_to_have_attribute("transform", moved)
    page.locator("#flow-canvas").focus()
    moved = scene.get_attribute("transform")
    page.keyboard.press("Shift+ArrowRight")
    expect(scene).not_to_have_attribute("transform", moved)
    page.keyboard.press("+")
    until(page, "Number(document.querySelector('.flow-svg').dataset.zoom) > 2")
    page.keyboard.press("0")
    expect(scene).to_have_attribute("transform", whole)
    assert page.url == url  # no part of it selects anything


def test_the_flow_goes_up_from_a_token(revisit: Visit) -> None:
    page = open_flow(revisit, pos=3)
    with sheet_of(page, "flow"):
        page.locator("#flow-options [data-go='direction=up']").click()
    line = page.locator("#flow-subtitle")
    expect(line).to_contain_text("of what reaches the state after layer 29 from ' France'")
    expect(line).to_contain_text("share of the state that it enters")
    expect(page).to_have_url(re.compile("direction=up"))
    drawn(page)
    expect(page.locator(".flow-scale-text")).to_contain_text("of the state it enters")
    assert page.evaluate("window.stratascope.flow.picture.up")
    assert page.evaluate(COUNT_LINKS) <= 300
    page.mouse.move(5, 300)
    page.locator(".panel-flow").screenshot(path=IMAGES / "flow-up.png")
    again = revisit("?" + page.url.partition("?")[2])
    drawn(again)
    expect(again.locator("#flow-subtitle")).to_contain_text(
        "of what reaches the state after layer 29"
    )


def test_a_range_of_layers_is_drawn_and_the_caption_states_the_rest(revisit: Visit) -> None:
    page = open_flow(revisit)
    open_sheet(page, "flow")
    thumbs = page.locator("#flow-layers [role=slider]")
    thumbs.first.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.wait_for_url("**first=3**")
    expect(page.locator("#flow-subtitle")).to_contain_text("Layers 0 to 2 are folded")
    thumbs.last.focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_url("**last=28**")
    expect(page.locator("#flow-subtitle")).to_contain_text(
        "of the flow passes the state after layer 28"
    )
    rows = page.locator(".flow-rows text")
    expect(rows.first).to_have_text("layer 2")
    expect(rows.last).to_have_text("layer 28")


def test_heads_and_scale_change_the_picture(revisit: Visit) -> None:
    page = open_flow(revisit)
    key = page.locator(".flow-scale-bar")
    before = key.get_attribute("style")
    with sheet_of(page, "flow"):
        page.locator("#flow-options [data-go='scale=fixed']").click()
        expect(key).not_to_have_attribute("style", before)
        page.locator("#flow-options [data-go='split=each']").click()
        page.wait_for_url("**split=each**")
    open_pane(page, "links")
    until(
        page,
        """(() => {
        const rows = [...document.querySelectorAll("#flow-table tbody tr")];
        const heads = rows.filter((row) => row.cells[0].textContent === "attention")
            .map((row) => row.cells[2].textContent);
        return heads.length && heads.every((text) => !text.includes(","));
    })()""",
    )


@pytest.mark.full
def test_every_method_is_drawn(revisit: Visit) -> None:
    page = open_flow(revisit, method=FLOW_METHODS.default)
    open_sheet(page, "flow")
    for method in tuple(FLOW_METHODS.values())[1:]:
        before = page.locator("#flow-subtitle").inner_text()
        page.locator(f'#flow-options [data-go="method={method.name}"]').click()
        pressed = page.locator(f'#flow-options [data-go="method={method.name}"]')
        expect(pressed).to_have_attribute("aria-pressed", "true")
        expect(page.locator("#flow-options .control-help")).to_have_text(method.summary)
        line = page.locator("#flow-subtitle")
        said = {"signed": "Direct paths"}.get(method.name, "Showing")
        expect(line).to_contain_text(said)
        expect(line).not_to_have_text(before)
        drawn(page, KINDS.get(method.name, "#flow-canvas .flow-link"))
        expect(page).to_have_url(re.compile(f"method={method.name}"))


def test_a_click_on_a_link_selects_its_head_and_reads_it(revisit: Visit) -> None:
    page = open_flow(revisit)
    found = page.evaluate(POINT_ON, "attention")
    assert found is not None
    x, y, target = found
    click(page, x, y)
    layer = target.split("layer=")[1].split("&")[0]
    head = target.split("heads=")[1].split("&")[0]
    expect(page.locator("#flow-inspector")).to_contain_text(
        f"What head {head} of layer {layer} writes"
    )
    expect(page.locator("#flow-inspector")).to_contain_text("Suppresses")
    expect(page.locator("#attention-subtitle")).to_contain_text(f"In layer {layer}")
    expect(page.locator(".head.is-selected")).to_contain_text(f"H{head}")
    expect(page).to_have_url(re.compile(f"heads={head}.*link=attention"))


def test_a_click_on_an_mlp_names_its_neurons(revisit: Visit) -> None:
    page = open_flow(revisit)
    x, y, target = page.evaluate(POINT_ON, "mlp")
    click(page, x, y)
    layer = target.split("layer=")[1].split("&")[0]
    expect(page.locator("#flow-inspector")).to_contain_text("Neurons most responsible")
    expect(page.locator("#flow-inspector")).to_contain_text(f"layer {layer} writes")
    expect(page).to_have_url(re.compile("link=mlp"))


def test_the_table_lists_the_links_and_sorts_without_a_request(revisit: Visit) -> None:
    page = open_flow(revisit)
    page.locator("[data-pane=flow]").focus()
    page.keyboard.press("ArrowRight")
    rows = page.locator("#flow-table tbody tr")
    count = page.evaluate("""(() => {
        const { rows, others } = window.stratascope.flow.picture.table;
        return rows.length + others.length;
    })()""")
    expect(rows).to_have_count(count)
    assert rows.filter(has_text="links not drawn").count() > 5  # the links that complete the sums
    page.locator("#flow-table [data-sort='6']").focus()
    page.keyboard.press("Enter")
    head = page.locator("#flow-table th").nth(6)
    expect(head).to_have_attribute("aria-sort", "descending")
    first = [float(text.rstrip(" %")) for text in rows.locator("td:last-child").all_inner_texts()]
    assert first == sorted(first, reverse=True)
    page.keyboard.press("Enter")
    expect(head).to_have_attribute("aria-sort", "ascending")
    page.locator("#flow-table [data-go*='link=mlp']").first.click()
    expect(page.locator("#flow-inspector")).to_contain_text("Neurons most responsible")


@pytest.mark.full
def test_the_causal_check_can_be_cancelled_and_is_shown(revisit: Visit) -> None:
    page = open_flow(revisit)
    open_pane(page, "check")
    page.locator("#flow-check-compare").click()
    expect(page.locator("#flow-check-compare")).to_be_disabled()
    page.locator("#flow-check-stop").click()
    expect(page.locator("#flow-check-cut")).to_be_enabled()
    expect(page.locator(".flow-compared")).to_have_count(0)
    page.locator("#flow-check-cut").click()
    expect(page.locator(".flow-scatter")).to_contain_text("Rank correlation")
    assert page.locator(".flow-scatter .points path").count() > 20
    page.locator("#flow-check-compare").click()
    expect(page.locator(".flow-compared tbody tr")).to_have_count(len(FLOW_METHODS))


def test_the_page_opens_with_effects_and_measures_them_in_the_background(visit: Visit) -> None:
    page = visit()
    line = page.locator("#flow-subtitle")
    expect(line).to_contain_text("falls if a link is cut")
    drawn(page, POINTS)
    expect(line).not_to_contain_text("Measured: 0 links")
    expect(page.locator("#flow-progress")).to_have_class("job is-idle")
    expect(page.locator("#flow-canvas")).to_be_hidden()
    at = page.evaluate(ON_LINE)
    page.mouse.move(at[0] - 3, at[1])
    page.mouse.move(*at)
    expect(page.locator("#flow-graph .hovertext")).to_contain_text("attention")
    page.mouse.click(*at)
    expect(page).to_have_url(re.compile("link=attention"))
    expect(page.locator("#flow-inspector")).to_contain_text("writes")
    open_pane(page, "links")
    heads = page.locator("#flow-table th")
    expect(heads.filter(has_text="Estimated logits")).to_have_count(1)
    expect(heads.filter(has_text="Measured logits")).to_have_count(1)
    old = visit("?prompt=The+capital+of+France+is")  # a link without a method
    expect(old.locator("#flow-subtitle")).to_contain_text("% of the flow")
    expect(old).to_have_url(re.compile("method=proximity"))


def test_signed_flow_names_the_sum_and_its_error(revisit: Visit) -> None:
    page = open_flow(revisit, method="signed")
    expect(page.locator("#flow-subtitle")).to_contain_text("the error")
    with sheet_of(page, "flow"):
        page.locator("#flow-options [data-go^='foil=']").nth(1).click()
    expect(page.locator("#flow-subtitle")).to_contain_text("minus that of")
    bar = page.locator("#flow-graph .bars .point path").first.bounding_box()
    page.mouse.move(bar["x"] + bar["width"] / 2 - 2, bar["y"] + bar["height"] / 2)
    page.mouse.click(bar["x"] + bar["width"] / 2, bar["y"] + bar["height"] / 2)
    expect(page.locator("#flow-inspector")).to_contain_text("writes")


@pytest.mark.full
def test_a_long_prompt_stays_within_300_links(revisit: Visit) -> None:
    page = open_flow(revisit, prompt=FOX * 4, new=0)
    assert page.locator(".token").count() >= 64
    assert 100 < page.evaluate(COUNT_LINKS) <= 300
    assert page.locator("#flow-canvas .flow-link.is-other").count() == 1
    print("drawn in", page.locator("#flow-canvas").get_attribute("data-drawn"), "ms")


@pytest.mark.full
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", PICTURES)
def test_pictures(visit: Visit, name: str, dark: bool) -> None:
    page = open_flow(partial(visit, dark=dark), **PICTURES[name])
    page.mouse.move(2, 2)
    page.set_viewport_size({"width": 1280, "height": 1300})
    page.wait_for_timeout(800)
    suffix = "-dark" if dark else ""
    page.locator(".panel-flow").screenshot(path=IMAGES / f"flow-{name}{suffix}.png")
    assert page.evaluate(COUNT_LINKS) <= 300
