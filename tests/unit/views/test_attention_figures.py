"""Attention and curves: shapes, labels, states."""

from __future__ import annotations

import dataclasses
import itertools
import re

import numpy as np
import plotly.graph_objects as go
import pytest

from dash_app.page.theme import DARK, LIGHT, Palette, base_layout
from dash_app.views.attention.figure import FLOOR, MOST_HEADS, attention, weights
from dash_app.views.curves.figure import spread
from tests.support import synthetic
from tests.support.repository import ROOT

THEMES = ("light", "dark")
CSS = ROOT / "assets" / "css" / "theme.css"


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("heads", [(), (3,), (0, 1), (0, 2, 3, 5, 7)])
@pytest.mark.parametrize("tokens", [3, 16, 70])
def test_attention_has_one_panel_for_each_head(
    theme: str, heads: tuple[int, ...], tokens: int
) -> None:
    pattern, run = synthetic.pattern(tokens), synthetic.run_result(4, tokens)
    figure = attention(pattern, run, heads=heads, pos=1, theme=theme)  # type: ignore[arg-type]
    go.Figure(figure)
    assert len(figure["data"]) == max(len(heads), 1)
    (axis,) = {trace["coloraxis"] for trace in figure["data"]}
    assert axis in figure["layout"]


def test_attention_is_blank_after_the_query_and_exact_elsewhere() -> None:
    pattern = synthetic.pattern(6)
    shown = weights(pattern, 2)
    ahead = np.triu(np.ones((6, 6), dtype=bool), 1)
    assert np.isnan(shown[ahead]).all()
    assert np.allclose(shown[~ahead], pattern.pattern[2][~ahead])
    assert np.allclose(weights(pattern, None)[~ahead], pattern.pattern.mean(0)[~ahead])


def test_logarithmic_attention_is_labelled_and_keeps_the_numbers() -> None:
    figure = attention(
        synthetic.pattern(6), synthetic.run_result(4, 6),
        heads=(1, 2), pos=2, theme="light", scaling="log",
    )  # fmt: skip
    axis = figure["layout"]["coloraxis2"]
    assert "(log)" in axis["colorbar"]["title"]["text"]
    assert axis["cmin"] == np.log10(FLOOR)
    drawn, told = figure["data"][0]["z"][2, :3], figure["data"][0]["customdata"][2, :3]
    assert np.allclose(drawn, np.log10(np.maximum(told, FLOOR)), atol=0.05)


def texts(figure: dict[str, object]) -> str:
    layout = figure["layout"]
    assert isinstance(layout, dict)
    return " ".join(note["text"] for note in layout["annotations"])


def test_attention_states_what_it_cannot_show() -> None:
    pattern, run = synthetic.pattern(6, heads=16), synthetic.run_result(4, 6)
    figure = attention(pattern, run, heads=tuple(range(16)), pos=2, theme="light")
    assert f"{16 - MOST_HEADS} more heads are chosen than can be drawn" in texts(figure)
    sinking = attention(pattern, run, heads=(0,), pos=2, theme="light")
    assert "10 % of this query's attention goes to a learned sink" in texts(sinking)
    empty = dataclasses.replace(pattern, pattern=np.full_like(pattern.pattern, np.nan))
    assert "Layer 1 has no attention" in texts(
        attention(empty, run, heads=(), pos=2, theme="light")
    )


def test_labels_at_the_curves_ends_are_moved_apart_in_order() -> None:
    places = [0.0, 0.01, 0.5, 0.02, 0.99, 1.0]
    moved = spread(places, 0.075)
    order = sorted(range(6), key=lambda index: places[index])
    steps = [moved[b] - moved[a] for a, b in itertools.pairwise(order)]
    assert min(steps) >= 0.075 - 1e-9
    assert max(moved) <= 1 + 1e-9
    assert spread([], 0.1) == []


@pytest.mark.parametrize(("palette", "rising"), [(LIGHT, False), (DARK, True)])
def test_the_scale_of_magnitudes_has_monotonic_lightness(palette: Palette, rising: bool) -> None:
    light = [lightness(colour) for _, colour in palette.magnitude]
    assert light == sorted(light, reverse=not rising)
    assert len(set(light)) == len(light)


def lightness(colour: str) -> float:
    """CIE L* of ``#rrggbb``."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return 116 * luminance ** (1 / 3) - 16 if luminance > 0.008856 else 903.3 * luminance


@pytest.mark.parametrize("palette", [LIGHT, DARK])
def test_text_and_curves_have_enough_contrast(palette: Palette) -> None:
    ground = luminance(palette.surface)
    for colour in (palette.ink, palette.ink_2, palette.ink_3, palette.select, palette.answer):
        assert contrast(luminance(colour), ground) >= 4.5, colour
    for colour in palette.categories:
        assert contrast(luminance(colour), ground) >= 3, colour


def luminance(colour: str) -> float:
    light = lightness(colour)
    return ((light + 16) / 116) ** 3 if light > 8 else light / 903.3


def contrast(one: float, other: float) -> float:
    """WCAG contrast ratio."""
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


@pytest.mark.parametrize(("palette", "block"), [(LIGHT, 0), (DARK, 1)])
def test_css_and_figures_use_the_same_colours(palette: Palette, block: int) -> None:
    rules = re.findall(r":root(?:\[data-theme=\"dark\"\])? \{(.*?)\}", CSS.read_text(), re.DOTALL)
    css = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", rules[block]))
    for name in ("surface", "raised", "rule", "ink", "accent", "select", "residual", "attention"):
        assert css[name] == getattr(palette, name), name
    for name in ("ink_2", "ink_3", "rule_strong", "answer", "mlp", "bias", "other", "page"):
        assert css[name.replace("_", "-")] == getattr(palette, name), name


def test_figures_have_a_transparent_background() -> None:
    assert base_layout("dark")["paper_bgcolor"] == "rgba(0,0,0,0)"


@pytest.mark.parametrize(("scaling", "scaled"), [("linear", lambda w: w), ("root", np.sqrt)])
def test_weights_without_the_first_token_are_scaled_to_the_largest_left(
    scaling: str, scaled: object
) -> None:
    pattern, run = synthetic.pattern(6), synthetic.run_result(4, 6)
    figure = attention(
        pattern, run, heads=(1, 2), pos=3, theme="light", scaling=scaling, first_key=False
    )
    largest = 0.0
    for trace, head in zip(figure["data"], (1, 2), strict=True):
        for query in range(6):
            for key in range(6):
                cell = trace["z"][query, key]
                if key == 0 or key > query:
                    assert np.isnan(cell)
                    continue
                weight = pattern.pattern[head, query, key]
                assert cell == pytest.approx(scaled(weight), rel=1e-6)
                assert trace["customdata"][query, key] == pytest.approx(weight, abs=6e-5)
                largest = max(largest, float(weight))
    axis = figure["layout"]["coloraxis2"]
    assert axis["cmax"] == pytest.approx(scaled(largest), rel=1e-6)
    assert figure["layout"]["xaxis"]["range"][0] == 0.5
    assert [shape["x0"] for shape in figure["layout"]["shapes"]] == [0.5, 0.5]


def test_the_ticks_of_a_square_root_scale_name_weights() -> None:
    figure = attention(
        synthetic.pattern(6), synthetic.run_result(4, 6),
        heads=(1, 2), pos=2, theme="light", scaling="root",
    )  # fmt: skip
    bar = figure["layout"]["coloraxis2"]["colorbar"]
    assert "(square root)" in bar["title"]["text"]
    for at, name in zip(bar["tickvals"], bar["ticktext"], strict=True):
        assert at**2 == pytest.approx(float(name), abs=0.006)


@pytest.mark.parametrize("heads", [(0, 1), (0, 1, 2, 3, 4), tuple(range(8))])
@pytest.mark.parametrize("tokens", [3, 16, 28, 64])
def test_several_heads_keep_the_names_of_the_tokens(heads: tuple[int, ...], tokens: int) -> None:
    run = synthetic.run_result(4, tokens)
    layout = attention(synthetic.pattern(tokens), run, heads=heads, pos=1, theme="dark")["layout"]
    across = layout["xaxis"]["domain"]
    inner = layout["width"] - layout["margin"]["l"] - layout["margin"]["r"]
    assert (across[1] - across[0]) * inner / tokens >= 11
    assert len(layout["xaxis"]["ticktext"]) == tokens


@pytest.mark.parametrize("tokens", [7, 14, 33, 64])
def test_one_head_fits_a_small_panel_and_knows_the_size_that_names_all(tokens: int) -> None:
    run = synthetic.run_result(4, tokens)
    figure = attention(synthetic.pattern(tokens), run, heads=(), pos=1, theme="light")
    meta, margin = figure["layout"]["meta"], figure["layout"]["margin"]
    beside = margin["t"] + margin["b"]
    assert meta["least"][1] - beside == 2 * tokens
    assert meta["named"][1] - beside == 12 * tokens  # a line of text is 11 pixels high
    several = attention(synthetic.pattern(tokens), run, heads=(0, 1), pos=1, theme="light")
    assert several["layout"]["meta"]["least"] == several["layout"]["meta"]["named"]
