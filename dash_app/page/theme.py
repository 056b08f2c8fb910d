"""Colours, scales and the layout that all figures share, for the light and the dark page.

``assets/css/theme.css`` has the same values; a test compares the two.

The scale for magnitudes is viridis (Smith and van der Walt, 2015): it is readable with any colour
vision and in greyscale, because lightness grows monotonically. On a dark page it runs from the
page's dark to yellow. On a light page it is reversed and fades into white, so that on both pages
more contrast means a larger value. Signed values use PuOr (ColorBrewer), whose lightness changes
from the middle to both ends. The colours of the components (residual, attention, MLP, bias) differ
in lightness too, so that they stay apart in greyscale. Categories are those of Okabe and Ito
(2008), darkened or lightened for contrast on each page.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Theme = Literal["light", "dark"]
Scale = tuple[tuple[float, str], ...]
Figure = dict[str, Any]

SANS = "Inter, 'Segoe UI', system-ui, 'Noto Sans', 'Liberation Sans', sans-serif"
MONO = "'JetBrains Mono', 'SF Mono', 'Cascadia Mono', 'DejaVu Sans Mono', monospace"


@dataclass(frozen=True, slots=True)
class Palette:
    """One theme's colours; the names are those of the CSS variables."""

    page: str
    surface: str
    raised: str
    sunken: str
    rule: str
    rule_strong: str
    ink: str
    ink_2: str
    ink_3: str
    accent: str
    select: str
    answer: str
    residual: str
    attention: str
    mlp: str
    bias: str
    other: str
    magnitude: Scale
    signed: Scale
    categories: tuple[str, ...]


LIGHT = Palette(
    page="#f4f5f7",
    surface="#ffffff",
    raised="#ffffff",
    sunken="#eef0f3",
    rule="#e1e5ea",
    rule_strong="#c5ccd5",
    ink="#17202b",
    ink_2="#465262",
    ink_3="#5f6b7b",
    accent="#0b62c4",
    select="#c2410c",
    answer="#0f766e",
    residual="#8a96a5",
    attention="#0a59b2",
    mlp="#aa6c00",
    bias="#5c3057",
    other="#c3cad3",
    magnitude=(
        (0.0, "#f4f7ef"),
        (0.08, "#e4f0d6"),
        (0.22, "#bfe0b4"),
        (0.4, "#6ec48c"),
        (0.55, "#2f9f88"),
        (0.7, "#277f8e"),
        (0.85, "#365c8d"),
        (1.0, "#440154"),
    ),
    signed=(
        (0.0, "#7f3b08"),
        (0.2, "#d57d16"),
        (0.38, "#fbc583"),
        (0.5, "#f8f8f8"),
        (0.62, "#c4c1de"),
        (0.8, "#8073ac"),
        (1.0, "#2d004b"),
    ),
    categories=(
        "#0b62c4",
        "#c2410c",
        "#00795a",
        "#a3468a",
        "#9a6700",
        "#2286b8",
        "#5a5f69",
        "#6b4fbb",
    ),
)

DARK = Palette(
    page="#0d1117",
    surface="#141a22",
    raised="#1b222c",
    sunken="#0f141b",
    rule="#252d38",
    rule_strong="#3a4553",
    ink="#e4e9f0",
    ink_2="#b0bac7",
    ink_3="#8793a3",
    accent="#6cb0ff",
    select="#ff9d5c",
    answer="#4fd1c0",
    residual="#687484",
    attention="#429aff",
    mlp="#ebb556",
    bias="#f0ddee",
    other="#3c4653",
    magnitude=(
        (0.0, "#171d27"),
        (0.08, "#262844"),
        (0.22, "#3b3a76"),
        (0.4, "#31688e"),
        (0.55, "#21918c"),
        (0.7, "#35b779"),
        (0.85, "#90d743"),
        (1.0, "#fde725"),
    ),
    signed=(
        (0.0, "#fdb863"),
        (0.2, "#d57d16"),
        (0.38, "#6b3d10"),
        (0.5, "#1c222b"),
        (0.62, "#443d70"),
        (0.8, "#8f84c4"),
        (1.0, "#cdc9ec"),
    ),
    categories=(
        "#6cb0ff",
        "#ff9d5c",
        "#3ecf9e",
        "#e79fd0",
        "#f0d24a",
        "#7fd4f5",
        "#a9b3c0",
        "#b5a3f5",
    ),
)


def palette(theme: Theme) -> Palette:
    """The colours of a theme; anything but "dark" is light."""
    return DARK if theme == "dark" else LIGHT


def rgba(colour: str, alpha: float) -> str:
    """A ``#rrggbb`` colour with an opacity, as plotly and CSS read it."""
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:g})"


def scale(stops: Scale) -> list[list[float | str]]:
    """A scale in plotly's format."""
    return [[at, colour] for at, colour in stops]


def scale_colour(stops: Scale, part: float) -> str:
    """The colour of a scale at ``part``, 0 to 1, as ``#rrggbb``."""
    high = next((stop for stop in stops if stop[0] >= part), stops[-1])
    low = [stop for stop in stops if stop[0] <= part][-1]
    weight = (part - low[0]) / (high[0] - low[0]) if high[0] > low[0] else 0.0
    pairs = zip(_channels(low[1]), _channels(high[1]), strict=True)
    return "#" + "".join(f"{round(start + (end - start) * weight):02x}" for start, end in pairs)


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, 1 to 21 (WCAG 2.2, "contrast ratio")."""
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def readable_on(background: str) -> str:
    """Black or white, whichever has more contrast on a colour: at least 4.58 on any."""
    return max(("#000000", "#ffffff"), key=lambda ink: contrast(ink, background))


def _channels(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[start : start + 2], 16) for start in (1, 3, 5))


def _luminance(colour: str) -> float:
    """The relative luminance of an sRGB colour, 0 to 1 (WCAG 2.2)."""
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (channel / 255 for channel in _channels(colour))
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def base_layout(theme: Theme, **changes: Any) -> dict[str, Any]:
    """The layout of every figure: fonts, margins, no background, hover style."""
    colours = palette(theme)
    layout: dict[str, Any] = {
        "font": {"family": SANS, "size": 12, "color": colours.ink_2},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 64, "r": 16, "t": 16, "b": 48, "pad": 0, "autoexpand": False},
        "hoverlabel": hover_label(theme),
        "showlegend": False,
        "dragmode": False,
        "uirevision": "keep",
    }
    layout.update(changes)
    return layout


def hover_label(theme: Theme) -> dict[str, Any]:
    """The style of hover boxes; monospace, so that numbers line up."""
    colours = palette(theme)
    return {
        "bgcolor": colours.raised,
        "bordercolor": colours.rule_strong,
        "font": {"family": MONO, "size": 12, "color": colours.ink},
        "align": "left",
        "namelength": 0,
    }


def axis(theme: Theme, title: str = "", **changes: Any) -> dict[str, Any]:
    """A plain axis: muted labels, no grid, no zero line."""
    colours = palette(theme)
    values: dict[str, Any] = {
        "title": {"text": title, "font": {"size": 12, "color": colours.ink_3}, "standoff": 10},
        "tickfont": {"size": 11, "color": colours.ink_2},
        "showgrid": False,
        "zeroline": False,
        "showline": False,
        "ticks": "",
        "gridcolor": colours.rule,
        "linecolor": colours.rule_strong,
        "fixedrange": True,
    }
    values.update(changes)
    return values


def colour_bar(theme: Theme, text: str, **changes: Any) -> dict[str, Any]:
    """A narrow colour bar on the right."""
    colours = palette(theme)
    values: dict[str, Any] = {
        "title": {"text": text, "side": "right", "font": {"size": 11, "color": colours.ink_3}},
        "tickfont": {"size": 10, "color": colours.ink_3},
        "thickness": 10,
        "outlinewidth": 0,
        "xpad": 8,
        "ypad": 0,
        "ticks": "",
    }
    values.update(changes)
    return values
