"""The figure and the table of growth curves in the documents."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs
from plotly.utils import PlotlyJSONEncoder

from benchmarks._growth_fit import Exponent

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "how-to" / "bring-your-model.md"
PICTURE = ROOT / "docs" / "img" / "growth.png"
BEGIN, END = "<!-- growth: begin -->", "<!-- growth: end -->"
#: Less memory than this is noise: freed memory that was given back is taken again.
LEAST_BYTES = 30e6
#: Points that an exponent needs.
LEAST_POINTS = 3
#: Colours that people with any colour vision can tell apart (Okabe and Ito 2008), and marks.
STYLES = (
    ("#000000", "circle"),
    ("#0072b2", "square"),
    ("#d55e00", "diamond"),
    ("#e69f00", "triangle-up"),
    ("#009e73", "cross"),
    ("#cc79a7", "x"),
    ("#56b4e9", "triangle-down"),
)
#: Name of a size -> view -> its costs, each with ``seconds`` and ``bytes``.
Curves = Mapping[str, Mapping[str, Sequence[Any]]]
Sizes = Mapping[str, Sequence[int]]


def table(sizes: Sizes, found: Curves) -> str:
    """Return the exponents of time and memory, as a table of Markdown."""
    names = [name.capitalize() for name in sizes]
    lines = [f"| View | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
    for unit, label in (("seconds", "time"), ("bytes", "memory")):
        for view in next(iter(found.values())):
            cells = [_exponent(sizes[name], found[name][view], unit) for name in sizes]
            if any(cell != "—" for cell in cells):
                lines.append(f"| {view}: {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _exponent(sizes: Sequence[int], costs: Sequence[Any], unit: str) -> str:
    least = LEAST_BYTES if unit == "bytes" else 0.0
    values = [getattr(one, unit) for one in costs]
    clear = [(size, value) for size, value in zip(sizes, values, strict=True) if value > least]
    return str(Exponent.of(*zip(*clear, strict=True))) if len(clear) >= LEAST_POINTS else "—"


def figure(sizes: Sizes, found: Curves) -> dict[str, Any]:
    """Return the plotly figure: a column for each size, time above memory."""
    layout: dict[str, Any] = {
        "width": 1000,
        "height": 560,
        "template": "none",
        "font": {"family": "Inter, Arial, sans-serif", "size": 12},
        "grid": {"rows": 2, "columns": len(sizes), "pattern": "independent"},
        "margin": {"l": 60, "r": 10, "t": 50, "b": 45},
        "legend": {"orientation": "h", "y": 1.1, "x": 0},
    }
    data = []
    for row, unit in enumerate(("seconds", "bytes")):
        for column, (name, along) in enumerate(sizes.items()):
            number = row * len(sizes) + column + 1
            layout[f"xaxis{number}"] = {
                "type": "log",
                "title": {"text": name if row else ""},
                "tickvals": list(along),
                "ticktext": _labels(along),
                "tickangle": 0,
            }
            layout[f"yaxis{number}"] = {"type": "log", "dtick": "D2" if row else 1} | (
                {} if column else {"title": {"text": "memory, MB" if row else "CPU seconds"}}
            )
            for (view, costs), style in zip(found[name].items(), STYLES, strict=True):
                values = [getattr(one, unit) for one in costs]
                if row:
                    values = [one / 1e6 if one > LEAST_BYTES else None for one in values]
                data.append(_line(number, view, along, values, style))
    return {"data": data, "layout": layout}


def _line(
    number: int,
    view: str,
    along: Sequence[int],
    values: Sequence[float | None],
    style: tuple[str, str],
) -> dict[str, Any]:
    colour, mark = style
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": view,
        "legendgroup": view,
        "showlegend": number == 1,
        "x": list(along),
        "y": list(values),
        "xaxis": f"x{number}",
        "yaxis": f"y{number}",
        "line": {"color": colour, "width": 1.5},
        "marker": {"color": colour, "symbol": mark, "size": 7},
    }


def _labels(along: Sequence[int]) -> list[str]:
    """The sizes as text, without those that the next one would touch."""
    words = [f"{size // 1000}k" if size >= 8000 else str(size) for size in along]
    near = [right < 1.4 * left for left, right in pairwise(along)]
    return ["" if close else word for word, close in zip(words, [*near, False], strict=True)]


def write(sizes: Sizes, found: Curves) -> None:
    """Draw the figure, and replace the table between the page's markers."""
    draw(figure(sizes, found), PICTURE)
    old = PAGE.read_text(encoding="utf-8")
    before, _, rest = old.partition(BEGIN)
    after = rest.partition(END)[2]
    if not after:
        raise SystemExit(f"{PAGE} has no {BEGIN} and {END}.")
    text = f"{before}{BEGIN}\n\n{table(sizes, found)}\n\n{END}{after}"
    PAGE.write_text(text, encoding="utf-8")


def draw(drawn: dict[str, Any], path: Path) -> None:
    """Draw a plotly figure as PNG, with the Chromium of the tests."""
    from playwright.sync_api import sync_playwright

    from tests.support import chromium

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium.find(), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1020, "height": 600})
        page.set_content("<body style='margin:0;background:#fff'><div id='figure'></div></body>")
        page.add_script_tag(content=get_plotlyjs())
        page.evaluate(f"Plotly.newPlot('figure', {json.dumps(drawn, cls=PlotlyJSONEncoder)})")
        page.locator("#figure .main-svg").first.wait_for()
        page.locator("#figure .svg-container").screenshot(path=path)
        browser.close()
