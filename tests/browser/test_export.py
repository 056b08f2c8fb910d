"""The menu that exports a panel, in a real browser."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from playwright.sync_api import expect

from dash_app.pictures.documents import recipe_of
from tests.support.browser_pages import until_drawn

pytestmark = [pytest.mark.browser, pytest.mark.real]

Visit = Callable[..., Any]
SVG = "{http://www.w3.org/2000/svg}"
LINK = "?prompt=The%20capital%20of%20France%20is&new=1&theme=dark"


def menu(page: Any, panel: str) -> Any:
    """The menu of a panel, open."""
    found = page.locator(f"[data-export-menu={panel}]")
    if found.get_attribute("open") is None:
        found.locator("summary").click()
    return found


def saved(page: Any, panel: str, kind: str, view: str = "") -> bytes:
    """The file that an entry of a panel's menu saves; ``view`` names it if the panel does not."""
    opened, ending = menu(page, panel), kind.removesuffix("3")
    with page.expect_download() as download:
        opened.locator(f"[data-export={kind}]").click()
    assert download.value.suggested_filename == f"stratascope-{view or panel}.{ending}"
    return Path(download.value.path()).read_bytes()


def texts(root: Any) -> set[str]:
    return {"".join(one.itertext()) for one in root.iter(f"{SVG}text")}


def test_pictures_and_numbers_of_heatmap_and_flow_can_be_saved(visit: Visit) -> None:
    page = visit(LINK)
    until_drawn(page)
    labels = "document.querySelector('#lens-graph .js-plotly-plot').layout.meta.labels.flat()"
    shown = [text for text in page.evaluate(labels) if len(text) <= 5]  # longer ones are cut
    for panel in ("lens", "flow"):
        png = saved(page, panel, "png")
        assert png.startswith(b"\x89PNG")
        root = ET.fromstring(saved(page, panel, "svg"))  # noqa: S314
        wide, high = (int(root.get(name)) for name in ("width", "height"))
        # A PNG names its size at byte 16.
        size = [int.from_bytes(png[at : at + 4], "big") for at in (16, 20)]
        assert size == [2 * wide, 2 * high]
        assert root.find(f"{SVG}rect").get("fill") == "#fff"
        recipe = json.loads(root.findtext(f"{SVG}metadata"))
        assert recipe["view"] == panel
        assert recipe["prompt"] == "The capital of France is"
        if panel == "lens":
            assert len(shown) > 50
            assert set(filter(None, shown)) <= texts(root)
        else:
            assert len(root.findall(f".//{SVG}path")) > 20
            assert {"residual", "attention", "MLP"} <= {one.strip() for one in texts(root)}
            caption = page.locator("#flow-subtitle").inner_text().split()[:3]
            assert any(one.split()[:3] == caption for one in texts(root))
            assert any("Paris" in one for one in texts(root))
        text = saved(page, panel, "csv").decode()
        head, *rows = csv.reader(io.StringIO(text.split("\r\n", 2)[2], newline=""))
        assert rows
        assert len({len(row) for row in (head, *rows)}) == 1
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


@pytest.mark.full
def test_a_picture_has_what_is_scrolled_out_of_sight(visit: Visit) -> None:
    page = visit(f"{LINK}&panes=links")
    until_drawn(page)
    table = page.locator("#flow-table")
    expect(table.locator("tbody tr").last).to_be_attached()
    whole, seen = table.evaluate("(box) => [box.scrollHeight, box.clientHeight]")
    assert whole > seen
    table.evaluate("(box) => (box.scrollTop = 40)")
    root = ET.fromstring(saved(page, "flow", "svg", "links"))  # noqa: S314
    assert int(root.get("height")) >= whole
    after = table.evaluate("(box) => [box.scrollHeight, box.clientHeight, box.scrollTop]")
    assert after == [whole, seen, 40]


@pytest.mark.full
def test_the_inspector_exports_the_tab_on_top(visit: Visit) -> None:
    page = visit(f"{LINK}&row=20&pos=4&layer=20&heads=5")
    until_drawn(page)
    for tab, table in (("cell", "decode.cells"), ("head", "promoted.tokens")):
        page.locator(f"[data-inspect={tab}]").click()
        text = saved(page, "inspector", "csv", tab).decode()
        assert text.startswith(f"# Table {table} of {tab}")
        page.keyboard.press("Escape")


@pytest.mark.full
def test_the_menu_works_from_the_keyboard(visit: Visit) -> None:
    page = visit(LINK)
    until_drawn(page)
    summary = page.locator("[data-export-menu=curves] > summary")
    summary.focus()
    page.keyboard.press("Enter")
    entry = page.locator("[data-export-menu=curves] [data-export=json]")
    expect(entry).to_be_visible()
    with page.expect_download() as download:
        entry.press("Enter")
    found = json.loads(Path(download.value.path()).read_bytes())
    assert found["recipe"]["view"] == "curves"
    page.keyboard.press("Escape")
    expect(entry).to_be_hidden()
    expect(summary).to_be_focused()


@pytest.mark.full
def test_further_formats_hold_the_recipe(visit: Visit) -> None:
    page = visit(LINK)
    until_drawn(page)
    small, large = saved(page, "lens", "png"), saved(page, "lens", "png3", "lens-3x")
    sizes = [int.from_bytes(one[16:20], "big") for one in (small, large)]
    assert sizes[1] * 2 == sizes[0] * 3
    for data in (small, large, saved(page, "lens", "svg"), saved(page, "lens", "html")):
        assert recipe_of(data)["prompt"] == "The capital of France is"
    menu(page, "flow").locator("[data-export=pdf]").click()
    printed = page.frame_locator("#printed-picture").locator("body > svg")
    expect(printed).to_be_attached()
    assert printed.locator("path").count() > 20


@pytest.mark.full
def test_a_figure_for_a_paper_has_its_width_and_its_title(visit: Visit) -> None:
    page = visit(LINK)
    until_drawn(page)
    menu(page, "flow").locator("[data-export=paper]").click()
    dialog = page.get_by_role("dialog", name="Figure for a paper")
    caption = dialog.get_by_label("Caption").input_value()
    shown = page.locator("#flow-subtitle").inner_text()
    assert "".join(caption.split()) == "".join(shown.split())
    assert re.search(r"[.)][A-Z]", caption) is None  # sentences that stand apart have a space
    dialog.get_by_label("Width in millimetres").fill("85")
    dialog.get_by_label("Title above the figure").check()
    with page.expect_download() as download:
        dialog.get_by_role("button", name="Save").click()
    root = ET.fromstring(Path(download.value.path()).read_bytes())  # noqa: S314
    assert root.get("width") == "85mm"
    found = texts(root)
    assert root.findtext(f"{SVG}title") in found
    assert {"residual", "attention", "MLP"} <= {one.strip() for one in found}
    assert not any(caption.startswith(one) for one in found if len(one) > 20)
    expect(dialog).to_have_count(0)
