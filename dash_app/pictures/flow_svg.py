"""The flow graph as an SVG that needs no script: for notebooks, documents and files.

It is the picture that ``assets/js/flow.js`` draws in the page, without zoom. Pointing at a state
shows its links, as in the page: a rule of the style sheet for each state does this.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from dash_app.page.theme import DARK, LIGHT, MONO, Palette, Theme, palette
from dash_app.settings import ASSETS
from dash_app.views.flow.picture import Picture

#: "auto" follows the notebook or the browser.
Shown = Theme | Literal["auto"]
#: Selectors of dark pages: JupyterLab, VS Code, classic notebooks with a theme.
_DARK_PAGES = ('body[data-jp-theme-light="false"]', "body.vscode-dark", '[data-theme="dark"]')
_LIGHT_PAGES = ('body[data-jp-theme-light="true"]', "body.vscode-light", '[data-theme="light"]')
_FONTS = (
    ("Inter", "inter-latin-wght-normal"),
    ("JetBrains Mono", "jetbrains-mono-latin-wght-normal"),
)
_USED = (
    "surface", "ink", "ink_2", "ink_3", "rule", "answer", "select", "residual", "attention", "mlp",
    "bias", "other",
)  # fmt: skip
#: The colour and the opacity of each kind of link.
_KINDS = {
    "residual": ("residual", 0.5), "attention": ("attention", 0.7), "mlp": ("mlp", 0.7),
    "bias": ("bias", 0.7), "sink": ("bias", 0.7), "other": ("other", 0.5),
}  # fmt: skip
_ORDER = {"residual": 0, "sink": 1, "mlp": 2, "attention": 3}
#: As in ``flow.js`` and ``flow_fit.js``: pixels.
_NODE, _SLIGHTEST, _LANE, _PLOT, _CHARACTER, _LINE = 5.0, 0.6, 17.0, 200.0, 6.7, 13.0
#: Style of the picture; {k} is its class, the other names are colours.
_STYLE = """
.{k}{{font:11px {mono};font-variant-ligatures:none}}
.{k} text{{fill:{ink}}}
.{k} .guide{{stroke:{rule}}}
.{k} .lane{{text-anchor:end;dominant-baseline:central}}
.{k} .answer{{fill:{answer}}}
.{k} .number{{font-size:10px;fill:{ink_3}}}
.{k} .row{{text-anchor:middle;fill:{ink_3}}}
.{k} .label{{text-anchor:middle;dominant-baseline:central;paint-order:stroke;stroke:{surface};\
stroke-width:3px;pointer-events:none}}
.{k} .root{{text-anchor:start;fill:{select};font-weight:600}}
.{k} .link:hover{{opacity:.95}}
.{k} .line{{fill:none;pointer-events:stroke}}
.{k} .minor{{visibility:hidden;pointer-events:none}}
.{k} .full{{fill:{ink_2};fill-opacity:.4}}
.{k} .block .full{{fill-opacity:.8}}
.{k} .rest{{fill:{other}}}
.{k} .hit{{fill:transparent}}
.{k} .node:hover .hit{{stroke:{select};stroke-width:1.5px}}
"""


@lru_cache(maxsize=1)
def fonts() -> str:
    """Rules that embed the page's fonts."""
    rules = []
    for family, file in _FONTS:
        data = base64.b64encode((ASSETS / "fonts" / f"{file}.woff2").read_bytes()).decode()
        source = f'url("data:font/woff2;base64,{data}") format("woff2")'
        rules.append(f'@font-face{{font-family:"{family}";src:{source};font-weight:100 900}}')
    return "".join(rules)


@dataclass(frozen=True, slots=True)
class FlowPicture:
    """The flow graph as an interactive SVG: pointing at a state shows its links.

    Attributes:
        picture: Places and texts, as in the page.
        theme: "light", "dark" or "auto".
        size: Width and height in pixels; the picture's own if None.
    """

    picture: Picture
    theme: Shown = "light"
    size: tuple[float, float] | None = None

    def svg(self, theme: Shown | None = None, font: str = "") -> str:
        """The SVG; in another theme if one is given."""
        return flow_svg(self.picture, theme=theme or self.theme, size=self.size, font=font)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the SVG to a file, with its font."""
        Path(path).write_text(self.svg(font=fonts()), encoding="utf-8")

    def _repr_html_(self) -> str:
        return f'<div style="overflow-x:auto">{self.svg()}</div>'


def flow_svg(
    picture: Picture,
    *,
    theme: Shown = "light",
    size: tuple[float, float] | None = None,
    font: str = "",
) -> str:
    """A picture of the flow as SVG text.

    Args:
        picture: From ``dash_app.views.flow.picture``.
        theme: "light", "dark", or "auto": both, chosen by the page around it.
        size: Width and height in pixels that it is stretched to; its own unless given. It gets
            higher if the lanes need more.
        font: Rules for ``@font-face`` that the file embeds.
    """
    shown = picture if size is None else stretched(picture, *size)
    mark = "f" + hashlib.sha256(repr((shown, theme)).encode()).hexdigest()[:8]
    states = _states(shown)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="{mark}" role="img"'
        f' aria-label="Flow graph" width="{_n(shown["width"])}" height="{_n(shown["height"])}"'
        f' viewBox="0 0 {_n(shown["width"])} {_n(shown["height"])}">',
        f"<style>{font}{_style(mark, theme)}{_pointing(mark, states)}</style>",
        f'<rect width="100%" height="100%" fill="{_ink(theme, mark)("surface")}"/>',
        *_graph(shown, states, mark),
        *_names(shown),
        "</svg>",
    ]
    return "".join(parts)


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def stretched(picture: Picture, width: float, height: float) -> Picture:
    """The picture in another size; texts keep theirs. See ``assets/js/flow_fit.js``."""
    margin = picture["margin"]
    across, down = margin["left"] + margin["right"], margin["top"] + margin["bottom"]
    inner, tall = picture["width"] - across, picture["height"] - down
    sx = max(width - across, _PLOT) / inner
    sy = max(height - down, len(picture["lanes"]) * _LANE) / tall
    other = picture["other"]
    if other is not None:
        other = {
            **other,
            "top": other["top"] * sy,
            "outline": [[x * sx, high * sy] for x, high in other["outline"]],
        }
    changed: dict[str, Any] = {
        "width": inner * sx + across,
        "height": tall * sy + down,
        "lanes": [[y * sy, *rest] for y, *rest in picture["lanes"]],
        "rows": [[x * sx, *rest] for x, *rest in picture["rows"]],
        "nodes": [
            [x * sx, y * sy, high * sy, part * sy, *rest]
            for x, y, high, part, *rest in picture["nodes"]
        ],
        "links": [
            [*ends, x0 * sx, y0 * sy, x1 * sx, y1 * sy, wide * sy, *rest]
            for *ends, x0, y0, x1, y1, wide, kind, main, target, hover, ribbon in picture["links"]
            for rest in [(kind, main, target, hover, ribbon)]
        ],
        "other": other,
        "labels": [[x * sx, y * sy, *rest] for x, y, *rest in picture["labels"]],
        "key": [[high * sy, part] for high, part in picture["key"]],
    }
    return cast(Picture, {**picture, **changed})


# The style sheet.


def _ink(theme: Shown, mark: str) -> Callable[[str], str]:
    """From the name of a colour to what the SVG has: the colour, or a variable of "auto"."""
    if theme == "auto":
        return lambda name: f"var(--{mark}-{name})"
    return lambda name: str(getattr(palette(theme), name))


def _style(mark: str, theme: Shown) -> str:
    ink = _ink(theme, mark)
    colours = {name: ink(name) for name in _USED}
    kinds = "".join(
        f".{mark} .{kind}.link{{fill:{ink(colour)};stroke:{ink(colour)};opacity:{strength}}}"
        for kind, (colour, strength) in _KINDS.items()
    )
    lines = f".{mark} .other.link{{stroke:none}}.{mark} .link.line{{fill:none}}"
    return _variables(mark, theme) + _STYLE.format(k=mark, mono=MONO, **colours) + kinds + lines


def _variables(mark: str, theme: Shown) -> str:
    """The colours of both themes, chosen by the page around the picture."""
    if theme != "auto":
        return ""

    def values(colours: Palette) -> str:
        return ";".join(f"--{mark}-{name}:{getattr(colours, name)}" for name in _USED)

    def within(pages: Iterable[str]) -> str:
        return ",".join(f"{page} .{mark}" for page in pages)

    return (
        f".{mark}{{{values(LIGHT)}}}"
        f"@media(prefers-color-scheme:dark){{.{mark}{{{values(DARK)}}}}}"
        f"{within(_LIGHT_PAGES)}{{{values(LIGHT)}}}{within(_DARK_PAGES)}{{{values(DARK)}}}"
    )


def _pointing(mark: str, states: Sequence[int]) -> str:
    """Rules that show the links of the state under the pointer, and fade all others."""
    rules = []
    for state in sorted(set(states)):
        here = f".{mark}:has(.n{state}:hover)"
        rules.append(
            f"{here} .link:not(.a{state}){{opacity:.08}}"
            f"{here} .minor.a{state}{{visibility:visible;opacity:.55}}"
        )
    return "".join(rules)


def _states(picture: Picture) -> list[int]:
    """[node] the number of its state: nodes that select the same cell are one state."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(node[5], len(numbers)) for node in picture["nodes"]]


# The parts of the picture.


def _graph(picture: Picture, states: Sequence[int], mark: str) -> list[str]:
    margin = picture["margin"]
    wide = picture["width"] - margin["left"] - margin["right"]
    clip = (
        f'<clipPath id="{mark}-clip"><rect x="0" y="-{margin["top"]}"'
        f' width="{_n(picture["width"] - margin["left"])}"'
        f' height="{_n(picture["height"] - margin["bottom"])}"/></clipPath>'
    )
    guides = [f'<path class="guide" d="M0 {_n(y)}H{_n(wide)}"/>' for y, *_ in picture["lanes"]]
    return [
        clip,
        f'<g transform="translate({margin["left"]} {margin["top"]})">',
        f'<g clip-path="url(#{mark}-clip)">',
        *guides,
        *_other(picture),
        *(_link(link, states) for link in _ordered(picture["links"])),
        *(_node(node, state) for node, state in zip(picture["nodes"], states, strict=True)),
        *_labels(picture),
        "</g></g>",
    ]


def _ordered(links: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
    """Wide links first, so that narrow ones stay visible; minor links last."""
    return sorted(links, key=lambda one: ((0 if one[8] else 10) + _ORDER.get(one[7], 1), -one[6]))


def _said(lines: Sequence[str]) -> str:
    """What a reader sees who points at an element."""
    return f"<title>{escape(chr(10).join(lines))}</title>"


def _link(link: Sequence[Any], states: Sequence[int]) -> str:
    source, target, x0, y0, x1, y1, wide, kind, main, _, hover, ribbon = link
    middle, half = _n((x0 + x1) / 2), wide / 2
    ends = " ".join(f"a{state}" for state in sorted({states[source], states[target]}))
    names = f"link {kind if kind in _KINDS else 'bias'} {ends}"
    names += ("" if main else " minor") + ("" if ribbon else " line")
    start, end = _n(x0), _n(x1)
    if ribbon:
        d = (
            f"M{start} {_n(y0 - half)}C{middle} {_n(y0 - half)} {middle} {_n(y1 - half)} {end}"
            f" {_n(y1 - half)}V{_n(y1 + half)}C{middle} {_n(y1 + half)} {middle} {_n(y0 + half)}"
            f" {start} {_n(y0 + half)}Z"
        )
    else:
        d = f"M{start} {_n(y0)}C{middle} {_n(y0)} {middle} {_n(y1)} {end} {_n(y1)}"
    stroke = "0" if ribbon else f"{wide:.3f}"
    return f'<path class="{names}" d="{d}" stroke-width="{stroke}">{_said(hover)}</path>'


def _node(node: Sequence[Any], state: int) -> str:
    x, top, tall, covered, kind, _, hover = node
    left = _n(x - _NODE / 2)
    rects = []
    if tall > 0:
        drawn = _n(max(covered, _SLIGHTEST))
        rects.append(f'<rect class="full" x="{left}" y="{_n(top)}" width="5" height="{drawn}"/>')
    if tall - covered > 0.4:
        rest = f'y="{_n(top + covered)}" width="5" height="{_n(tall - covered)}"'
        rects.append(f'<rect class="rest" x="{left}" {rest}/>')
    rects.append(
        f'<rect class="hit" x="{_n(x - 3)}" y="{_n(top - 2)}" width="6" height="{_n(tall + 4)}"/>'
    )
    return f'<g class="node n{state} {kind}">{_said(hover)}{"".join(rects)}</g>'


def _other(picture: Picture) -> list[str]:
    other = picture["other"]
    if other is None:
        return []
    edge = [(x, other["top"] + tall) for x, tall in other["outline"]]
    corners = [(other["outline"][at][0], other["top"]) for at in (-1, 0)]
    points = " ".join(f"{_n(x)},{_n(y)}" for x, y in (*edge, *corners))
    return [f'<polygon class="link other" points="{points}">{_said(other["hover"])}</polygon>']


# Texts, which stand where flow_zoom.js puts them.


class _Text(NamedTuple):
    """A text and its place, in pixels."""

    x: float
    y: float
    text: str
    beside: bool = False

    @property
    def middle(self) -> float:
        """The middle of the text."""
        return self.x + self.half if self.beside else self.x

    @property
    def half(self) -> float:
        """Half its width."""
        return len(self.text) * _CHARACTER / 2


def _clear(texts: Iterable[_Text]) -> list[_Text]:
    """The texts that stand clear of all before them, the most important first."""
    kept: list[_Text] = []
    for one in texts:
        if all(
            abs(other.middle - one.middle) > other.half + one.half + 3
            or abs(other.y - one.y) > _LINE
            for other in kept
        ):
            kept.append(one)
    return kept


def _labels(picture: Picture) -> list[str]:
    texts = [
        _Text(x + (10 if beside else 0), y - (0 if beside else 8), text, bool(beside))
        for x, y, text, beside, zoom in picture["labels"]
        if zoom <= 1
    ]
    return [
        f'<text class="label{" root" if one.beside else ""}" x="{_n(one.x)}" y="{_n(one.y)}">'
        f"{escape(one.text)}</text>"
        for one in _clear(texts)
    ]


def _names(picture: Picture) -> list[str]:
    """Tokens at the left of their lanes, and names of rows below."""
    left, top, bottom = (picture["margin"][name] for name in ("left", "top", "bottom"))
    found = []
    for y, token, position, answer in picture["lanes"]:
        found.append(
            f'<text class="lane{" answer" if answer else ""}" x="{left - 8}" y="{_n(top + y)}">'
            f'<tspan>{escape(token)}</tspan><tspan class="number" dx="6">{position}</tspan></text>'
        )
    if picture["other"] is not None:
        y = top + picture["other"]["top"] + 5
        text = escape(picture["other"]["text"])
        found.append(f'<text class="lane" x="{left - 8}" y="{_n(y)}">{text}</text>')
    # A name takes one character more than it has, so that two names never touch.
    rows = [_Text(left + x, 0, f"{name} ") for x, name in picture["rows"]]
    shown = _clear([*rows[-1:], *rows[:-1]])
    y = picture["height"] - bottom + 18
    return found + [
        f'<text class="row" x="{_n(one.x)}" y="{_n(y)}">{escape(one.text[:-1])}</text>'
        for one in shown
    ]
