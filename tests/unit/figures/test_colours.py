"""Colours: texts in cells are readable on both pages, and components differ in greyscale."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from dash_app.figures.colours import cell_texts
from dash_app.page.theme import DARK, LIGHT, Palette, readable_on, scale_colour
from tests.support.repository import ROOT

PALETTES = [pytest.param(LIGHT, id="light"), pytest.param(DARK, id="dark")]


def channels(colour: str) -> list[float]:
    return [int(pair, 16) / 255 for pair in re.findall("..", colour[1:])]


def luminance(colour: list[float]) -> float:
    """As WCAG 2.2 defines it, for this test alone."""
    linear = np.where(
        np.array(colour) <= 0.04045,
        np.array(colour) / 12.92,
        ((np.array(colour) + 0.055) / 1.055) ** 2.4,
    )
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(channels(one)), luminance(channels(other))))
    return (high + 0.05) / (low + 0.05)


def lightness(colour: list[float]) -> float:
    """CIE L*, 0 to 100."""
    return 116 * luminance(colour) ** (1 / 3) - 16


@pytest.mark.parametrize("palette", PALETTES)
@pytest.mark.parametrize("name", ["magnitude", "signed"])
def test_the_text_of_every_cell_has_a_contrast_of_at_least_4_5(palette: Palette, name: str) -> None:
    stops = getattr(palette, name)
    cells = [scale_colour(stops, part) for part in np.linspace(0, 1, 401)]
    assert min(contrast(readable_on(cell), cell) for cell in cells) >= 4.5


@pytest.mark.parametrize("palette", PALETTES)
def test_a_scale_has_its_stops_and_mixes_them_between(palette: Palette) -> None:
    stops = palette.magnitude
    assert [scale_colour(stops, at) for at, _ in stops] == [colour for _, colour in stops]
    (start, first), (end, second) = stops[:2]
    middle = channels(scale_colour(stops, (start + end) / 2))
    assert middle == pytest.approx(np.mean([channels(first), channels(second)], 0), abs=1 / 255)


@pytest.mark.parametrize("palette", PALETTES)
def test_components_differ_in_greyscale_and_from_the_surface(palette: Palette) -> None:
    parts = [palette.residual, palette.attention, palette.mlp, palette.bias]
    pairs = itertools.combinations((lightness(channels(part)) for part in parts), 2)
    assert min(abs(one - other) for one, other in pairs) >= 10
    assert min(contrast(part, palette.surface) for part in parts) >= 3


@pytest.mark.parametrize("palette", PALETTES)
def test_links_of_the_flow_differ_in_greyscale_as_they_are_drawn(palette: Palette) -> None:
    css = (ROOT / "assets" / "css" / "views.css").read_text("utf-8")
    rule = r"--hue: var\(--(residual|attention|mlp|bias)\); --strength: ([\d.]+);"
    strengths = {name: float(strength) for name, strength in re.findall(rule, css)}
    assert set(strengths) == {"residual", "attention", "mlp", "bias"}
    ground = np.array(channels(palette.surface))
    drawn = [
        lightness(
            list(strength * np.array(channels(getattr(palette, name))) + (1 - strength) * ground)
        )
        for name, strength in strengths.items()
    ]
    assert min(abs(one - other) for one, other in itertools.combinations(drawn, 2)) >= 6


@pytest.mark.parametrize("palette", PALETTES)
def test_every_ink_has_a_contrast_of_at_least_4_5_on_every_background(palette: Palette) -> None:
    inks = (
        palette.ink,
        palette.ink_2,
        palette.ink_3,
        palette.accent,
        palette.select,
        palette.answer,
    )
    grounds = (palette.page, palette.surface, palette.raised, palette.sunken)
    assert min(contrast(ink, ground) for ink in inks for ground in grounds) >= 4.5


@pytest.mark.parametrize("palette", PALETTES)
def test_texts_of_cells_are_written_where_there_is_a_value(palette: Palette) -> None:
    values = np.array([[0.0, 0.5], [np.nan, 1.0]])
    traces = cell_texts(values, [["a", ""], ["c", "d"]], 0.0, 1.0, palette.magnitude, size=9)
    written = {
        (trace["x"][at], trace["y"][at]): (text, trace["textfont"]["color"])
        for trace in traces
        for at, text in enumerate(trace["text"])
    }
    ends = [readable_on(scale_colour(palette.magnitude, part)) for part in (0.0, 1.0)]
    assert written == {(0, 0): ("a", ends[0]), (1, 1): ("d", ends[1])}
