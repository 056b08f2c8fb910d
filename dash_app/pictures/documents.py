"""Pictures as files: SVG, PNG, PDF, and HTML that needs no server.

Every file holds its recipe, so that ``stratascope run FILE`` computes its numbers again.
"""

from __future__ import annotations

import json
import math
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape, unescape
from pathlib import Path
from typing import Any, cast

from analysis.contract.sheets import Frame
from analysis.errors import SpecError, StoreError
from dash_app.page.theme import DARK, LIGHT, MONO, SANS, Figure
from dash_app.page.token_labels import width as cells
from dash_app.pictures import chromium
from dash_app.pictures.flow_svg import flow_svg, fonts
from dash_app.pictures.results import ROWS, Drawn, Part, size_of, with_texts
from dash_app.settings import ASSETS
from dash_app.views.flow.picture import Picture

#: Pixels of CSS in a millimetre.
PER_MM = 96 / 25.4
#: Formats by the ending of a file's name.
FORMATS = ("svg", "png", "pdf", "html")
#: Pixels of a table's character, line and edge; most characters of a cell.
_LETTER, _LINE, _EDGE, _LONGEST = 6.7, 16, 10, 28
_RECIPE = "stratascope-recipe"
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class Paper:
    """How a figure is set on paper.

    Attributes:
        width_mm: Its width in millimetres; the size of the page unless given.
        titled: Whether the title stands above it.
        scale: Pixels of a PNG for each pixel of the screen.
    """

    width_mm: float | None = None
    titled: bool = False
    scale: float = 2.0

    def __post_init__(self) -> None:
        if self.width_mm is not None and not 20 <= self.width_mm <= 2000:
            raise SpecError(f"A figure can't be {self.width_mm:g} mm wide.", "Use 20 to 2000 mm.")
        if not 0.5 <= self.scale <= 8:
            raise SpecError(f"The scale can't be {self.scale:g}.", "Use 0.5 to 8, such as 2 or 3.")


def format_of(path: Path) -> str:
    """The format that a file's name ends with.

    Raises:
        SpecError: If it is none of ``FORMATS``.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise SpecError(f"{path.name} is no picture.", f"End it with: {', '.join(FORMATS)}.")
    return kind


def write(drawn: Drawn, path: Path, paper: Paper = Paper()) -> list[Path]:
    """Write a view to a file of the format that its name ends with.

    Args:
        drawn: The view.
        path: Ends with one of ``FORMATS``.
        paper: The size and the title.

    Returns:
        The files: the picture, and the text of its caption beside it.

    Raises:
        SpecError: If the format is unknown.
        MissingPackageError: If the format needs Chromium and there is none.
    """
    kind = format_of(path)
    if kind == "html":
        path.write_text(as_html(drawn), encoding="utf-8")
        return [path]
    svg, wide, high = as_svg(drawn, paper)
    if kind == "svg":
        path.write_text(f'<?xml version="1.0" encoding="UTF-8"?>\n{svg}', encoding="utf-8")
    elif kind == "png":
        path.write_bytes(with_recipe(chromium.png(svg, wide, high, paper.scale), drawn.recipe))
    else:
        made = chromium.pdf(svg, *_lengths(wide, high, paper))
        path.write_bytes(with_information(made, drawn))
    beside = path.with_suffix(".txt")
    beside.write_text(f"{drawn.title}. {drawn.caption}\n", encoding="utf-8")
    return [path, beside]


# ------------------------------------------------------------------ SVG


def as_svg(drawn: Drawn, paper: Paper = Paper()) -> tuple[str, float, float]:
    """All parts on white, one below the other, as one SVG; and its size in pixels."""
    width = None if paper.width_mm is None else paper.width_mm * PER_MM
    parts = _as_svgs(drawn.parts, width)
    top = 30.0 if paper.titled else 0.0
    wide = max((wide for _, wide, _ in parts), default=100.0)
    high = top + sum(high for _, _, high in parts)
    across, down = _lengths(wide, high, paper)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{across}" height="{down}"'
        f' viewBox="0 0 {wide:g} {high:g}">',
        f"<title>{escape(drawn.title)}</title><desc>{escape(drawn.caption)}</desc>",
        f'<metadata id="{_RECIPE}">{escape(json.dumps(dict(drawn.recipe)))}</metadata>',
        f"<style>{fonts()}</style>",
        f'<rect width="{wide:g}" height="{high:g}" fill="#ffffff"/>',
    ]
    if paper.titled:
        lines.append(
            f'<text x="{_EDGE}" y="20" font-family="{escape(SANS)}" font-size="14"'
            f' font-weight="600" fill="{LIGHT.ink}">{escape(drawn.title)}</text>'
        )
    for svg, part_wide, part_high in parts:
        lines.append(_placed(svg, top, part_wide, part_high))
        top += part_high
    return "".join([*lines, "</svg>"]), wide, high


def _lengths(wide: float, high: float, paper: Paper) -> tuple[str, str]:
    """The size on paper, with its unit."""
    if paper.width_mm is None:
        return f"{wide:g}px", f"{high:g}px"
    return f"{paper.width_mm:g}mm", f"{paper.width_mm * high / wide:.2f}mm"


_ROOT = re.compile(r"<svg\b[^>]*>")


def _placed(svg: str, y: float, wide: float, high: float) -> str:
    """An SVG inside another one."""
    root = _ROOT.search(svg)
    if root is None:
        return ""
    opened = re.sub(r'\s(?:x|y|width|height)="[^"]*"', "", root[0])
    place = f'<svg x="0" y="{y:g}" width="{wide:g}" height="{high:g}"'
    return place + opened.removeprefix("<svg") + svg[root.end() :]


def _as_svgs(parts: Sequence[Part], width: float | None) -> list[tuple[str, float, float]]:
    """(SVG, width, height) of each part; all plotly figures are drawn by one browser."""
    figures = [(at, *_sized(one, width)) for at, one in enumerate(parts) if _is_figure(one)]
    drawn = chromium.plotly_svgs([one[1:] for one in figures], fonts())
    made: dict[int, tuple[str, float, float]] = {
        at: (svg, wide, high) for (at, _, wide, high), svg in zip(figures, drawn, strict=True)
    }
    for at, one in enumerate(parts):
        if isinstance(one, Frame):
            made[at] = table_svg(one)
        elif not _is_figure(one):
            made[at] = _flow(cast(Picture, one), width)
    return [made[at] for at in range(len(parts))]


def _is_figure(part: Part) -> bool:
    return isinstance(part, dict) and "layout" in part


def _sized(part: Any, width: float | None) -> tuple[Figure, int, int]:
    """A figure with its cells' texts, and its size."""
    figure: Figure = with_texts(part, "light")
    wide, high = size_of(figure)
    meta = figure["layout"].get("meta") or {}
    least = meta.get("named") or meta.get("least") or (0, 0)
    if width is not None and not figure["layout"].get("width"):
        wide = max(round(width), least[0])
    return figure, wide, high


def _flow(picture: Picture, width: float | None) -> tuple[str, float, float]:
    size = None if width is None else (width, picture["height"] * width / picture["width"])
    svg = flow_svg(picture, size=size)
    root = _ROOT.search(svg)
    wide, high = re.findall(r'\s(?:width|height)="([\d.]+)"', root[0] if root else "")[:2]
    return svg, float(wide), float(high)


def table_svg(frame: Frame) -> tuple[str, float, float]:
    """The first rows of a table as an SVG, with real text."""
    head, rows = list(frame.columns), frame.rows[:ROWS]
    texts = [head, *([_cell(value) for value in row] for row in rows)]
    sizes = [max(cells(line[at]) for line in texts) for at in range(len(head))]
    left = [_EDGE + _LETTER * sum(size + 2 for size in sizes[:at]) for at in range(len(head) + 1)]
    lines: list[str] = []
    for number, line in enumerate(texts):
        y = _EDGE + _LINE * (number + 0.75)
        weight = ' font-weight="600"' if not number else ""
        words = (
            f'<text x="{x:g}" y="{y:g}"{weight}>{escape(text)}</text>'
            for x, text in zip(left, line, strict=False)
        )
        lines += words
    count = len(frame.rows)
    if count > len(rows):
        y = _EDGE + _LINE * (len(texts) + 0.75)
        lines.append(f'<text x="{_EDGE}" y="{y:g}">{count - len(rows):,} more rows</text>')
    wide, high = left[-1] + _EDGE, _EDGE * 2 + _LINE * (len(texts) + (count > len(rows)))
    style = f'font-family="{escape(MONO)}" font-size="11" fill="{LIGHT.ink}"'
    body = "".join(lines)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide:g}" height="{high:g}"'
        f' viewBox="0 0 {wide:g} {high:g}"><g {style} xml:space="preserve">{body}</g></svg>',
        wide,
        high,
    )


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    shown = "".join(char if char.isprintable() else "·" for char in text)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"


# ------------------------------------------------------------------ HTML

_STYLE = """
:root{{color-scheme:light dark;--ink:{0.ink};--muted:{0.ink_2};--rule:{0.rule_strong};
--page:{0.surface}}}
@media(prefers-color-scheme:dark){{:root{{--ink:{1.ink};--muted:{1.ink_2};--rule:{1.rule_strong};
--page:{1.surface}}}}}
body{{margin:24px;background:var(--page);color:var(--ink);font:15px/1.5 {2}}}
h1{{font-size:20px;margin:0 0 4px}}p{{margin:0 0 16px;max-width:80ch;color:var(--muted)}}
table{{border-collapse:collapse;font:12px {3};margin:12px 0}}
th,td{{padding:2px 10px 2px 0;border-bottom:1px solid var(--rule);text-align:left;white-space:pre}}
.part{{overflow-x:auto;margin-bottom:16px}}
"""
_SHOW = """
const figures = JSON.parse(document.getElementById("figures").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
function draw() {
  figures.forEach((one, at) => {
    const { data, layout } = dark.matches && one.dark ? one.dark : one.light;
    Plotly.react(`figure-${at}`, data, { ...layout, width: one.width, height: one.height },
      { displayModeBar: false });
  });
}
draw();
dark.addEventListener("change", draw);
"""


def as_html(drawn: Drawn) -> str:
    """The view as one interactive page: figures with hover boxes, for light and dark pages."""
    figures: list[dict[str, Any]] = []
    body = []
    dark = dict(enumerate(drawn.dark))
    for at, part in enumerate(drawn.parts):
        if _is_figure(part):
            figure, wide, high = _sized(part, None)
            also = dark.get(at)
            shown = with_texts(cast(Figure, also), "dark") if also is not None else None
            body.append(f'<div class="part" id="figure-{len(figures)}"></div>')
            figures.append({"light": figure, "dark": shown, "width": wide, "height": high})
        elif isinstance(part, Frame):
            body.append(_table(part))
        else:
            body.append(f'<div class="part">{flow_svg(cast(Picture, part), theme="auto")}</div>')
    style = _STYLE.format(LIGHT, DARK, SANS, MONO)
    recipe = chromium.script_json(dict(drawn.recipe))
    return "\n".join([
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(drawn.title)}</title><style>{fonts()}{style}</style></head><body><main>",
        f"<h1>{escape(drawn.title)}</h1><p>{escape(drawn.caption)}</p>",
        *body,
        f'<script type="application/json" id="{_RECIPE}">{recipe}</script>',
        *(_scripts(figures) if figures else ()),
        "</main></body></html>",
    ])  # fmt: skip


def _scripts(figures: Sequence[Mapping[str, Any]]) -> list[str]:
    plotly = (ASSETS / "plotly" / "plotly-cartesian.min.js").read_text(encoding="utf-8")
    return [
        f'<script type="application/json" id="figures">{chromium.script_json(figures)}</script>',
        f"<script>{plotly}</script><script>{_SHOW}</script>",
    ]


def _table(frame: Frame) -> str:
    head = "".join(
        f'<th title="{escape(unit)}">{escape(name)}</th>' for name, unit in frame.columns.items()
    )
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(_cell(value))}</td>' for value in row)}</tr>"
        for row in frame.rows[:ROWS]
    )
    more = len(frame.rows) - ROWS
    note = f"<p>{more:,} more rows are in the CSV and JSON files.</p>" if more > 0 else ""
    return f'<div class="part"><table><tr>{head}</tr>{rows}</table>{note}</div>'


# ------------------------------------------------------------------ recipes in files


def with_recipe(png: bytes, recipe: Mapping[str, Any]) -> bytes:
    """A PNG with the recipe as a text chunk (iTXt; PNG, third edition, section 11.3.3)."""
    text = f"{_RECIPE}\0\0\0\0\0".encode() + json.dumps(dict(recipe)).encode()
    chunk = b"iTXt" + text
    made = struct.pack(">I", len(text)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    end = png.rindex(b"IEND") - 4
    return png[:end] + made + png[end:]


#: Key of the recipe in a PDF's information dictionary.
_PDF_KEY = b"/StratascopeRecipe"
_TRAILER = re.compile(rb"trailer\s*<<(.*?)>>\s*startxref\s*(\d+)\s*%%EOF\s*$", re.DOTALL)


def with_information(pdf: bytes, drawn: Drawn) -> bytes:
    """A PDF with title, caption and recipe in its information dictionary.

    They are appended as an incremental update (ISO 32000-1, sections 7.5.6 and 14.3.3).

    Raises:
        StoreError: If the PDF is not written as Chromium writes it.
    """
    trailer = _TRAILER.search(pdf)
    root = re.search(rb"/Root\s+\d+\s+\d+\s+R", trailer[1]) if trailer else None
    size = re.search(rb"/Size\s+(\d+)", trailer[1]) if trailer else None
    if trailer is None or root is None or size is None:
        raise StoreError("The PDF can't take the recipe.", "Write an .svg file instead.")
    number = int(size[1])
    values = {b"/Title": drawn.title, b"/Subject": drawn.caption, b"/Creator": "Stratascope"}
    entries = [name + b" <FEFF" + text.encode("utf-16-be", "replace").hex().encode() + b">"
               for name, text in values.items()]  # fmt: skip
    recipe = json.dumps(dict(drawn.recipe)).encode().hex().encode()
    about = b"\n".join([*entries, _PDF_KEY + b" <" + recipe + b">"])
    at = len(pdf) + 1
    added = b"\n%d 0 obj\n<<%b>>\nendobj\n" % (number, about)
    table = b"xref\n%d 1\n%010d 00000 n \n" % (number, at)
    end = b"trailer\n<</Size %d\n%b\n/Info %d 0 R\n/Prev %b>>\nstartxref\n%d\n%%%%EOF\n" % (
        number + 1, root[0], number, trailer[2], len(pdf) + len(added),
    )  # fmt: skip
    return pdf + added + table + end


def _of_pdf(data: bytes) -> Any:
    found = re.findall(re.escape(_PDF_KEY) + rb" <([0-9a-f]*)>", data)
    return json.loads(bytes.fromhex(found[-1].decode())) if found else None


def recipe_of(data: bytes) -> Any:
    """The recipe in a file, as JSON values; None if it has none."""
    if data.startswith(_PNG):
        return _of_png(data)
    if data.startswith(b"%PDF"):
        return _of_pdf(data)
    text = data.decode("utf-8", errors="replace")
    svg = re.search(r"<metadata[^>]*>(.*?)</metadata>", text, re.DOTALL)
    page = re.search(rf'<script[^>]*id="{_RECIPE}">(.*?)</script>', text, re.DOTALL)
    if page:
        return json.loads(page[1])
    if svg:
        return json.loads(unescape(svg[1]))
    return None


def _of_png(data: bytes) -> Any:
    at, head = len(_PNG), f"{_RECIPE}\0\0\0\0\0".encode()
    while at + 8 <= len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        body = data[at + 8 : at + 8 + size]
        if data[at + 4 : at + 8] == b"iTXt" and body.startswith(head):
            return json.loads(body[len(head) :])
        at += 12 + size
    return None
