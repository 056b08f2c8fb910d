"""The flow view in a real browser on the real model: hover, methods, links, table, causal check."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import expect

from dash_app.views.flow.methods import METHODS

pytestmark = [pytest.mark.browser, pytest.mark.real]

Visit = Callable[..., Any]
IMAGES = Path(__file__).parents[2] / "docs" / "img"
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
#: The state whose quiet links are to come out: one with many that no main link covers.
QUIET = """() => {
    const meta = document.querySelector("#flow-graph .js-plotly-plot").layout.meta;
    return [...document.querySelectorAll("#flow-graph .sankey-link")].filter((link) => {
        const data = link.__data__;
        const alpha = Number(data.alpha ?? data.tinyColorAlpha);
        return data.link.pointNumber < meta.links && alpha === 0;
    });
}"""
COUNT_SHOWN = f"""() => ({QUIET})().filter(
    (link) => Number(link.style.fillOpacity) > 0.3).length"""
#: Middle of the node, of those in sight, that most quiet links touch.
BUSIEST = f"""() => {{
    const count = {{}};
    for (const link of ({QUIET})()) {{
        const number = link.__data__.link.target.pointNumber
            ?? link.__data__.link.target.node.pointNumber;
        count[number] = (count[number] || 0) + 1;
    }}
    const places = [...document.querySelectorAll("#flow-graph .sankey-node")]
        .map((node) => [count[node.__data__.node.pointNumber] || 0,
                        node.querySelector(".node-rect").getBoundingClientRect()])
        .filter(([many, box]) => many && box.height > 6 && box.top > 90
                                 && box.bottom < innerHeight);
    const [, box] = places.sort((a, b) => b[0] - a[0])[0];
    return [box.left + box.width / 2, box.top + box.height / 2];
}}"""
#: A point on the widest drawn attention link of which nothing lies over it.
ATTENTION = """() => {
    const plot = document.querySelector("#flow-graph .js-plotly-plot");
    const kinds = plot.data[0].link.customdata;
    const flows = plot.data[0].link.value;
    const links = [...document.querySelectorAll("#flow-graph .sankey-link")]
        .filter((link) => kinds[link.__data__.link.pointNumber][5] === "attention")
        .sort((a, b) => flows[b.__data__.link.pointNumber] - flows[a.__data__.link.pointNumber]);
    for (const link of links) {
        const box = link.getBoundingClientRect();
        for (let part = 0.1; part < 1; part += 0.02) {
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


def drawn(page: Any, kind: str = ".sankey-link") -> None:
    """Wait until the flow is drawn and nothing is on its way."""
    page.wait_for_selector(f"#flow-graph {kind}", state="attached")
    page.wait_for_selector("#flow-graph-box.is-loading", state="detached")
    page.wait_for_function("document.fonts.status === 'loaded'")


def open_flow(visit: Visit, *, dark: bool = False, **values: Any) -> Any:
    page = visit(f"?{urlencode(values)}" if values else "", dark=dark)
    drawn(page, ".bars .point" if values.get("method") == "signed" else ".sankey-link")
    page.wait_for_selector(".story-phrase")
    page.wait_for_selector("#attention-graph .heatmaplayer image")
    page.wait_for_load_state("networkidle")
    page.locator(".panel-flow").evaluate("panel => scrollTo(0, panel.offsetTop - 70)")
    return page


def test_hidden_links_come_out_on_hover_without_a_request(visit: Visit) -> None:
    page = open_flow(visit)
    page.wait_for_selector(".ledger-table", state="attached")  # the last job to end, and its polls
    page.wait_for_load_state("networkidle")
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    assert page.evaluate(f"({QUIET})().length") > 20
    assert page.evaluate(COUNT_SHOWN) == 0
    page.mouse.move(*page.evaluate(BUSIEST))
    page.wait_for_function(f"({COUNT_SHOWN})() > 2")
    page.mouse.move(5, 300)
    page.wait_for_function(f"({COUNT_SHOWN})() === 0")
    assert requests == []


def test_every_method_is_drawn(visit: Visit) -> None:
    page = open_flow(visit)
    for method in METHODS[1:]:
        before = page.locator("#flow-subtitle").inner_text()
        page.locator(f'#flow-options [data-go="method={method.value}"]').click()
        pressed = page.locator(f'#flow-options [data-go="method={method.value}"]')
        expect(pressed).to_have_attribute("aria-pressed", "true")
        expect(page.locator("#flow-options > .control-help")).to_have_text(method.help)
        line = page.locator("#flow-subtitle")
        said = "Direct paths" if method.value == "signed" else "Showing"
        expect(line).to_contain_text(said, timeout=90_000)
        expect(line).not_to_have_text(before)
        drawn(page, ".bars .point" if method.value == "signed" else ".sankey-link")
        assert f"method={method.value}" in page.url


def test_a_click_on_a_link_selects_its_head_and_reads_it(visit: Visit) -> None:
    page = open_flow(visit)
    found = page.evaluate(ATTENTION)
    assert found is not None
    x, y, target = found
    page.mouse.move(x, y)
    page.mouse.click(x, y)
    layer = target.split("layer=")[1].split("&")[0]
    head = target.split("heads=")[1].split("&")[0]
    expect(page.locator("#flow-inspector")).to_contain_text(
        f"What head {head} of layer {layer} writes"
    )
    expect(page.locator("#flow-inspector")).to_contain_text("Suppresses")
    expect(page.locator("#attention-subtitle")).to_contain_text(f"In layer {layer}")
    expect(page.locator(".head.is-selected")).to_contain_text(f"H{head}")
    assert f"heads={head}" in page.url
    assert "link=attention" in page.url


def test_the_table_lists_the_links_and_sorts_without_a_request(visit: Visit) -> None:
    page = open_flow(visit)
    page.locator(".flow-list summary").focus()
    page.keyboard.press("Enter")
    rows = page.locator("#flow-table tbody tr")
    count = page.evaluate("document.querySelector('#flow-graph .js-plotly-plot').layout.meta.links")
    expect(rows).to_have_count(count)
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


def test_the_causal_check_can_be_stopped_and_is_shown(visit: Visit) -> None:
    page = open_flow(visit)
    page.locator("#flow-check-compare").click()
    expect(page.locator("#flow-check-compare")).to_be_disabled()
    page.locator("#flow-check-stop").click()
    expect(page.locator("#flow-check-cut")).to_be_enabled()
    expect(page.locator(".flow-compared")).to_have_count(0)
    page.locator("#flow-check-cut").click()
    expect(page.locator(".flow-scatter")).to_contain_text("Rank correlation", timeout=120_000)
    assert page.locator(".flow-scatter .points path").count() > 20
    page.locator("#flow-check-compare").click()
    expect(page.locator(".flow-compared tbody tr")).to_have_count(len(METHODS), timeout=180_000)


def test_signed_flow_names_the_sum_and_its_error(visit: Visit) -> None:
    page = open_flow(visit, method="signed")
    expect(page.locator("#flow-subtitle")).to_contain_text("residual error")
    page.locator("#flow-options [data-go^='foil=']").nth(1).click()
    expect(page.locator("#flow-subtitle")).to_contain_text("less that of")
    bar = page.locator("#flow-graph .bars .point path").first.bounding_box()
    page.mouse.move(bar["x"] + bar["width"] / 2 - 2, bar["y"] + bar["height"] / 2)
    page.mouse.click(bar["x"] + bar["width"] / 2, bar["y"] + bar["height"] / 2)
    expect(page.locator("#flow-inspector")).to_contain_text("writes")


def test_a_long_prompt_stays_within_300_links(visit: Visit) -> None:
    page = open_flow(visit, prompt=FOX * 4, new=0)
    assert page.locator(".token").count() >= 64
    assert page.locator("#flow-graph .sankey-link").count() <= 300


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", PICTURES)
def test_pictures(visit: Visit, name: str, dark: bool) -> None:
    page = open_flow(visit, dark=dark, **PICTURES[name])
    page.mouse.move(2, 2)
    page.set_viewport_size({"width": 1280, "height": 1200})
    page.wait_for_timeout(800)
    page.locator(".panel-flow").evaluate("panel => scrollTo(0, panel.offsetTop - 70)")
    page.wait_for_timeout(300)
    suffix = "-dark" if dark else ""
    page.locator(".panel-flow").screenshot(path=IMAGES / f"flow-{name}{suffix}.png")
    assert page.locator("#flow-graph .sankey-link").count() <= 300
