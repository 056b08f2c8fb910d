"""Exported pictures in a real browser: they look as the page does, and as real files."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.lens.specs import LensSpec
from analysis.tracing.specs import TraceSpec
from dash_app.pictures.documents import Paper, recipe_of, write
from dash_app.pictures.flow_svg import flow_svg, fonts
from dash_app.pictures.results import Drawn, figure
from tests.browser.test_export import saved
from tests.support.browser_pages import new_context, until_drawn
from tests.support.fake_results import token
from tests.support.fake_service import FakeService

pytestmark = [pytest.mark.browser, pytest.mark.real]

Visit = Callable[..., Any]
LINK = "?prompt=The%20capital%20of%20France%20is&new=1&theme=light"
#: A pixel differs if a channel is further apart than this (of 255): the edge of a letter or line
#: falls on another fraction of a pixel. At most this part of all pixels may differ.
APART, MOST = 64, 0.01
_COMPARE = """
async ([one, other]) => {
  const pixels = async (url) => {
    const image = new Image();
    image.src = url;
    await image.decode();
    const canvas = new OffscreenCanvas(image.width, image.height);
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    return [image.width, image.height, context.getImageData(0, 0, image.width, image.height).data];
  };
  const [wide, high, a] = await pixels(one);
  const [wide2, high2, b] = await pixels(other);
  let differ = 0, ink = 0;
  for (let at = 0; at < Math.min(a.length, b.length); at += 4) {
    const apart = Math.max(...[0, 1, 2].map((n) => Math.abs(a[at + n] - b[at + n])));
    differ += apart > LIMIT;
    ink += Math.min(a[at], a[at + 1], a[at + 2]) < 200;
  }
  return { same: wide === wide2 && high === high2, differ: differ / (wide * high),
           ink: ink / (wide * high) };
}
""".replace("LIMIT", str(APART))


def url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def shot(page: Any, svg: str, box: Any) -> bytes:
    """An SVG as a browser shows the file, cut to the size of a box."""
    page.goto("data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode())
    page.evaluate("document.fonts.ready")
    clip = {"x": 0, "y": 0, "width": box["width"], "height": box["height"]}
    return bytes(page.screenshot(clip=clip))


def test_the_flow_as_svg_looks_as_in_the_page(visit: Visit, browser: Any) -> None:
    """The file that the page saves, and the one that is drawn without a browser."""
    page = visit(LINK)
    until_drawn(page)
    page.mouse.move(0, 0)
    shown = page.locator("#flow-canvas svg")
    box = shown.bounding_box()
    box = {**box, "width": int(box["width"]), "height": int(box["height"])}
    own = page.screenshot(clip=box)
    drawn = page.evaluate("stratascope.flow.picture")
    files = {
        "page": saved(page, "flow", "svg").decode(),
        "command": flow_svg(drawn, font=fonts()),
    }
    context = new_context(browser, dark=False)
    other = context.new_page()
    for name, svg in files.items():
        found = page.evaluate(_COMPARE, [url(own), url(shot(other, svg, box))])
        assert found["same"], name
        assert found["ink"] > 0.01, "the page's picture is empty"
        assert found["differ"] <= MOST, (name, found)
    context.close()


@pytest.mark.full
def test_every_format_is_written_with_its_recipe(tmp_path: Path) -> None:
    service = FakeService()
    grid = service.ask(TraceSpec("fake", (0, 1, 2)), LensSpec())
    tokens = [token(number) for number in range(3)]
    heatmap = figure(grid, tokens)
    recipe = {"layout": 1, "view": "lens", "prompt": "<é>"}
    drawn = Drawn("A <title>", "What is shown.", (heatmap,), recipe, (figure(grid, theme="dark"),))
    sizes = {}
    for scale in (2.0, 3.0):
        file = tmp_path / f"at-{scale:g}.png"
        assert (
            write(drawn, file, Paper(scale=scale))[1].read_text() == "A <title>. What is shown.\n"
        )
        data = file.read_bytes()
        assert recipe_of(data) == recipe
        sizes[scale] = [int.from_bytes(data[at : at + 4], "big") for at in (16, 20)]
    assert [3 * one // 2 for one in sizes[2.0]] == sizes[3.0]
    for ending in ("svg", "html"):
        write(drawn, tmp_path / f"it.{ending}")
        assert recipe_of((tmp_path / f"it.{ending}").read_bytes()) == recipe
    write(drawn, tmp_path / "it.pdf", Paper(width_mm=120))
    data = (tmp_path / "it.pdf").read_bytes()
    assert data.startswith(b"%PDF-")
    box = data.partition(b"/MediaBox")[2].partition(b"]")[0].strip(b" [").split()
    assert float(box[2]) == pytest.approx(120 / 25.4 * 72, abs=1)
    assert recipe_of(data) == recipe
    assert information(data)["Title"] == "A <title>"
    assert information(data)["Subject"] == "What is shown."
    assert recipe_of(b"%PDF-1.4 of another program") is None


def information(pdf: bytes) -> dict[str, str]:
    """The texts of a PDF's information dictionary, found by its tables as readers do."""
    table = int(re.findall(rb"startxref\s+(\d+)", pdf)[-1])
    first, trailer = re.match(
        rb"xref\n(\d+) 1\n\d{10} 00000 n \ntrailer\n<<(.*?)>>", pdf[table:], re.DOTALL
    ).groups()
    number = re.search(rb"/Info (\d+) 0 R", trailer)[1]
    assert number == first
    assert int(re.search(rb"/Size (\d+)", trailer)[1]) == int(number) + 1
    assert pdf[int(re.search(rb"/Prev (\d+)", trailer)[1]) :].startswith(b"xref\n")
    place = int(pdf[table:].split(b"\n")[2].split()[0])
    assert pdf[place:].startswith(number + b" 0 obj\n<<")
    root = re.search(rb"/Root (\d+) 0 R", trailer)[1]
    assert b"\n" + root + b" 0 obj" in pdf
    found = re.findall(rb"/(\w+) <FEFF([0-9a-f]*)>", pdf[place:table])
    return {name.decode(): bytes.fromhex(text.decode()).decode("utf-16-be") for name, text in found}
