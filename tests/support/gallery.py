"""Render every figure in both themes: ``python -m tests.support.gallery FOLDER``.

Uses results in ``FOLDER/data`` (``NAME.run``, ``NAME.grid``, ``NAME.flow``, ``NAME.story``,
``NAME.pattern`` as ``analysis.codec`` writes them) where there are any, else synthetic ones, and
writes one page and one screenshot for each figure. Needs Chromium.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import plotly
from plotly.utils import PlotlyJSONEncoder

from analysis import codec
from analysis.trajectory.specs import StepsSpec
from dash_app.figures.colours import cell_colours
from dash_app.figures.heatmap import heatmap
from dash_app.page.window import laid_out, window
from dash_app.state.options import CURVES
from dash_app.views.attention.figure import attention
from dash_app.views.curves.figure import curves
from dash_app.views.story import story_phrases
from tests.support import fake_results, synthetic
from tests.support.repository import ROOT

CHROMIUM = os.environ.get("STRATASCOPE_CHROMIUM", "/usr/bin/chromium")


def samples(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Named sets of results: from ``folder``, and synthetic ones."""
    for path in sorted(folder.glob("*.run")):
        kinds = ("run", "grid", "flow", "story", "pattern")
        yield (
            path.stem,
            {kind: codec.decode(path.with_suffix(f".{kind}").read_bytes()) for kind in kinds},
        )
    yield "synthetic-12x16", synthetic.everything(layers=12, tokens=16)


def figures(results: dict[str, Any], theme: Any) -> Iterator[tuple[str, dict[str, Any], str]]:
    """(name, figure, text) of everything that one set of results gives."""
    run, grid, story = results["run"], results["grid"], results["story"]
    row, pos = int(grid.rows[-1]), story.position
    told = "".join(text for text, _ in story_phrases(story, run))
    options: dict[str, Any] = {"row": row, "pos": pos, "theme": theme}
    shown = window(run, False, row=row, pos=pos)
    cells = laid_out(grid, shown)
    for colour in ("probability", "entropy"):
        paints = cell_colours(colour, cells, None, shown)
        yield colour, heatmap(cells, run, paints, shown, **options), told
    pattern = results["pattern"]
    for name, heads, scaling in (
        ("mean", (), "linear"),
        ("one", (3,), "log"),
        ("several", (0, 2, 3, 5, 7), "linear"),
    ):
        figure = attention(pattern, run, heads=heads, pos=pos, theme=theme, scaling=scaling)
        yield f"attention-{name}", figure, ""
    steps = fake_results.steps(len(run.tokens), StepsSpec(pos, (5, 6, 7)))
    for quantity in CURVES:
        figure = curves(steps, quantity=quantity, theme=theme, row=row - 4)
        figure["layout"]["width"] = 600
        yield f"curves-{quantity}", figure, ""


def page(figure: dict[str, Any], theme: str, text: str) -> str:
    """One figure alone in the page's own panel, with the page's CSS and scripts."""
    styles = "".join(
        f'<link rel="stylesheet" href="file://{path}">'
        for path in sorted((ROOT / "assets").rglob("*.css"))
    )
    scripts = "".join(
        f'<script src="file://{path}"></script>' for path in sorted((ROOT / "assets").rglob("*.js"))
    )
    plotly_js = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    config = {"displayModeBar": False}
    data = json.dumps({**figure, "config": config}, cls=PlotlyJSONEncoder).replace("</", "<\\/")
    return (
        f'<!doctype html><html data-theme="{theme}" data-run="1">'
        f'<head><meta charset="utf-8">{styles}'
        f'<script src="file://{plotly_js}"></script>{scripts}</head><body><div class="app">'
        f'<div class="panel"><p class="panel-subtitle">{text}</p><div class="panel-body scroll-x">'
        f'<div class="figure" id="f"></div></div></div></div><script>'
        f"Plotly.newPlot('f', {data})"
        ".then(() => { window.drawn = true; });</script></body></html>"
    )


def main(folder: Path, only: str = "") -> None:
    """Write pages and screenshots into ``folder``."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": 1280, "height": 860})
        view.on("console", lambda message: print("console:", message.text))
        view.on("pageerror", lambda error: print("error:", error))
        for name, results in samples(folder / "data"):
            for theme in ("light", "dark"):
                for kind, figure, text in figures(results, theme):
                    target = folder / f"{name}.{kind}.{theme}.html"
                    if only not in target.name:
                        continue
                    target.write_text(page(figure, theme, text))
                    view.goto(target.as_uri())
                    view.wait_for_function("window.drawn === true")
                    view.screenshot(path=target.with_suffix(".png"), full_page=True)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
