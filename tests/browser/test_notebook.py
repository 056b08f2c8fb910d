"""The notebook of the documents: it runs, and its HTML is readable on light and dark pages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dash_app.page.theme import contrast
from tests.support.repository import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.full]

#: nbclient runs in a process of its own: its warnings are not ours.
EXECUTE = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, timeout=None, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[2])
"""
#: Colour and background of each text, as the browser shows it.
INK = """
() => {
  const hex = (text) => "#" + text.match(/\\d+/g).slice(0, 3).map((one) =>
    Number(one).toString(16).padStart(2, "0")).join("");
  const found = [];
  for (const one of document.querySelectorAll("svg text, td, th, b, small")) {
    const svg = one.closest("svg");
    const ink = getComputedStyle(one)[svg ? "fill" : "color"];
    const back = svg ? getComputedStyle(svg.querySelector("rect")).fill
                     : getComputedStyle(document.body).backgroundColor;
    if (one.textContent.trim()) found.push([hex(ink), hex(back), one.textContent]);
  }
  return found;
}
"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The code cells with their outputs."""
    made = tmp_path_factory.mktemp("notebook") / "made.ipynb"
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, ROOT / "docs" / "notebook.ipynb", made],
        cwd=made.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    cells = json.loads(made.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def outputs(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one["data"] for cell in cells for one in cell["outputs"] if "data" in one]


def test_ten_cells_run_and_each_shows_something(executed: list[dict[str, Any]]) -> None:
    assert len(executed) == 10
    for cell in executed:
        assert cell["outputs"], cell["source"]
        assert not [one for one in cell["outputs"] if one["output_type"] == "error"]
    kinds = [set(one) for one in outputs(executed)]
    assert sum("text/html" in one for one in kinds) >= 8
    assert any("application/vnd.plotly.v1+json" in one for one in kinds)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_html_is_readable_and_loads_nothing(
    scheme: str, executed: list[dict[str, Any]], browser: Any, tmp_path: Path
) -> None:
    parts = [
        "".join(one["text/html"])
        for one in outputs(executed)
        if "text/html" in one and "application/vnd.plotly.v1+json" not in one  # plotly's own
    ]
    ink, paper = ("#d0d0d0", "#111111") if scheme == "dark" else ("#222222", "#ffffff")
    style = f"background:{paper};color:{ink};font-family:sans-serif"
    theme = str(scheme == "light").lower()
    file = tmp_path / "page.html"
    body = f'<body data-jp-theme-light="{theme}" style="{style}">'
    file.write_text(
        f'<!doctype html><meta charset="utf-8">{body}{"<hr>".join(parts)}', encoding="utf-8"
    )
    page = browser.new_context(viewport={"width": 1280, "height": 720}).new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    found = page.evaluate(INK)
    assert len(found) > 100
    faint = [one for one in found if contrast(one[0], one[1]) < 4.5]
    assert not faint
    assert asked == [file.as_uri()]
    if folder := os.environ.get("STRATASCOPE_PICTURES"):
        page.screenshot(path=Path(folder) / f"notebook-{scheme}.png", full_page=True)
    link = page.locator("svg path.link:not(.minor)").first
    assert link.evaluate("(one) => one.querySelector('title').textContent.length") > 5
    state = page.locator("svg .node").last
    state.hover(force=True)
    faded = page.locator("svg path.link").evaluate_all(
        "(links) => links.map((one) => Number(getComputedStyle(one).opacity))"
    )
    assert min(faded) < 0.1 < max(faded)
    page.context.close()
