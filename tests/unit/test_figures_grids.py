"""Heatmap, attention and curves: shapes, labels, states."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest

from analysis.results import Emergence, Grid, Story
from dash_app.figures.attention import FLOOR, MOST_HEADS, attention, weights
from dash_app.figures.curves import curves, mark_lines, spread
from dash_app.figures.heatmap import TEXT_CELLS, heatmap
from dash_app.theme import DARK, LIGHT, Palette, base_layout
from tests.support import synthetic

THEMES = ("light", "dark")
CSS = Path(__file__).parents[2] / "assets" / "css" / "app.css"


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("colour", ["probability", "entropy"])
@pytest.mark.parametrize(("layers", "tokens"), [(4, 3), (12, 16), (30, 64)])
def test_heatmap_is_a_plotly_figure_of_the_grids_shape(
    theme: str, colour: str, layers: int, tokens: int
) -> None:
    grid, run = synthetic.grid(layers, tokens), synthetic.run_result(layers, tokens)
    figure = heatmap(grid, run, colour=colour, row=layers, pos=tokens - 1, theme=theme)  # type: ignore[arg-type]
    go.Figure(figure)
    trace = figure["data"][0]
    wanted = grid.probs[..., 0] if colour == "probability" else grid.entropy
    assert trace["z"] is wanted or np.array_equal(trace["z"], wanted)
    assert np.shape(trace["customdata"]) == (layers + 1, tokens)


def test_the_selection_is_in_shapes_alone() -> None:
    grid, run = synthetic.grid(4, 6), synthetic.run_result(4, 6)
    one, other = (
        heatmap(grid, run, colour="probability", row=row, pos=pos, theme="light")
        for row, pos in ((4, 5), (2, 1))
    )
    shapes = one["layout"].pop("shapes"), other["layout"].pop("shapes")
    assert str(one) == str(other)
    assert (shapes[1][0]["x0"], shapes[1][0]["y0"]) == (0.5, 1.5)


def test_only_a_window_of_texts_is_left_to_plotly() -> None:
    grid, run = synthetic.grid(30, 64), synthetic.run_result(30, 64)
    figure = heatmap(grid, run, colour="probability", row=30, pos=60, theme="light")
    trace = figure["data"][0]
    written = sum(bool(text) for line in trace["text"] for text in line)
    assert 0 < written <= TEXT_CELLS
    assert all(trace["text"][row][60] for row in range(31))
    assert np.shape(trace["meta"]["labels"]) == (31, 64)
    small = heatmap(
        synthetic.grid(4, 6), synthetic.run_result(4, 6),
        colour="probability", row=0, pos=0, theme="light",
    )["data"][0]  # fmt: skip
    assert all(all(line) for line in small["text"])
    assert small["meta"]["labels"] == []


def test_many_positions_make_a_wide_figure_not_narrow_cells() -> None:
    widths = [
        heatmap(
            synthetic.grid(2, tokens), synthetic.run_result(2, tokens),
            colour="probability", row=0, pos=0, theme="light",
        )["layout"]["width"]
        for tokens in (8, 64)
    ]  # fmt: skip
    assert widths[1] > 3 * widths[0]


def test_hover_and_cells_hold_tokens_as_text() -> None:
    grid, run = synthetic.grid(12, 16), synthetic.run_result(12, 16)
    figure = heatmap(grid, run, colour="probability", row=0, pos=0, theme="light")
    trace = figure["data"][0]
    hovers = [text for line in trace["customdata"] for text in line]
    assert any("&lt;/a&gt;" in text for text in hovers)
    for text in hovers:
        assert re.fullmatch(r"[^<]*", re.sub(r"</?b>|<br>", "", text))
    assert not any("<" in text for line in trace["text"] for text in line)


def test_a_grid_without_probabilities_is_coloured_by_its_scores() -> None:
    grid = synthetic.grid(4, 6)
    bare = dataclasses.replace(grid, probs=np.full_like(grid.probs, np.nan), similarity="cosine")
    figure = heatmap(
        bare, synthetic.run_result(4, 6), colour="probability", row=0, pos=0, theme="light"
    )
    assert np.array_equal(figure["data"][0]["z"], grid.scores[..., 0])
    assert figure["data"][0]["colorbar"]["title"]["text"] == "cosine"


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("heads", [(), (3,), (0, 1), (0, 2, 3, 5, 7)])
@pytest.mark.parametrize("tokens", [3, 16, 70])
def test_attention_has_one_pane_a_head(theme: str, heads: tuple[int, ...], tokens: int) -> None:
    pattern, run = synthetic.pattern(tokens), synthetic.run_result(4, tokens)
    figure = attention(pattern, run, heads=heads, pos=1, theme=theme)  # type: ignore[arg-type]
    go.Figure(figure)
    assert len(figure["data"]) == max(len(heads), 1)
    assert all(trace["coloraxis"] == "coloraxis" for trace in figure["data"])


def test_attention_is_blank_ahead_of_the_query_and_true_elsewhere() -> None:
    pattern = synthetic.pattern(6)
    shown = weights(pattern, 2)
    ahead = np.triu(np.ones((6, 6), dtype=bool), 1)
    assert np.isnan(shown[ahead]).all()
    assert np.allclose(shown[~ahead], pattern.pattern[2][~ahead])
    assert np.allclose(weights(pattern, None)[~ahead], pattern.pattern.mean(0)[~ahead])


def test_logarithmic_attention_says_so_and_keeps_the_numbers() -> None:
    figure = attention(
        synthetic.pattern(6), synthetic.run_result(4, 6),
        heads=(1,), pos=2, theme="light", scaling="log",
    )  # fmt: skip
    axis = figure["layout"]["coloraxis"]
    assert "(log)" in axis["colorbar"]["title"]["text"]
    assert axis["cmin"] == np.log10(FLOOR)
    drawn, told = figure["data"][0]["z"][2, :3], figure["data"][0]["customdata"][2, :3]
    assert np.allclose(drawn, np.log10(np.maximum(told, FLOOR)), atol=0.05)


def texts(figure: dict[str, object]) -> str:
    layout = figure["layout"]
    assert isinstance(layout, dict)
    return " ".join(note["text"] for note in layout["annotations"])


def test_attention_says_what_it_cannot_show() -> None:
    pattern, run = synthetic.pattern(6, heads=16), synthetic.run_result(4, 6)
    figure = attention(pattern, run, heads=tuple(range(16)), pos=2, theme="light")
    assert f"{16 - MOST_HEADS} more heads are chosen than can be drawn" in texts(figure)
    sinking = attention(pattern, run, heads=(0,), pos=2, theme="light")
    assert "10 % of this query's attention goes to a learned sink" in texts(sinking)
    empty = dataclasses.replace(pattern, pattern=np.full_like(pattern.pattern, np.nan))
    assert "Layer 1 has no attention" in texts(
        attention(empty, run, heads=(), pos=2, theme="light")
    )


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("quantity", ["probability", "log_probability", "rank"])
def test_curves_are_a_plotly_figure_with_a_curve_a_token(theme: str, quantity: str) -> None:
    grid, run = synthetic.grid(12, 16), synthetic.run_result(12, 16)
    figure = curves(
        grid, run, pos=13, quantity=quantity, marks=synthetic.story(12, 16), theme=theme, row=4  # type: ignore[arg-type]
    )  # fmt: skip
    go.Figure(figure)
    assert len(figure["data"]) == 2
    given = grid.target_ranks[:, 13, 1] + 1 if quantity == "rank" else grid.target_probs[:, 13, 1]
    assert np.allclose(figure["data"][1]["y"], given)


def test_curves_work_on_one_position_of_a_grid() -> None:
    full = synthetic.grid(12, 16)
    one = cut(full, 13)
    figure = curves(
        one, synthetic.run_result(12, 16), pos=13, quantity="rank", marks=None, theme="light"
    )
    assert np.array_equal(figure["data"][0]["y"], full.target_ranks[:, 13, 0] + 1)


def cut(grid: Grid, pos: int) -> Grid:
    """The grid of one position."""
    names = ("token_ids", "probs", "scores", "entropy", "kl_to_final", "target_probs")
    names += ("target_ranks", "chosen", "explained")
    parts = {name: getattr(grid, name)[:, pos : pos + 1] for name in names}
    return dataclasses.replace(grid, positions=np.array([pos]), **parts)


def emergence(first: int | None) -> Emergence:
    rows = np.zeros((13, 16))
    never = (None,) * 16
    return Emergence(
        np.zeros(16, np.int64), 0.5, (first,) * 16, never, (9,) * 16, never,
        rows.astype(np.float32), rows.astype(np.int64),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("marks", "lines"),
    [
        (synthetic.story(12, 16), [(9, "first"), (11, "emerges · stays")]),
        (synthetic.story(12, 16, position=2), []),
        (emergence(None), [(9, "stays")]),
        (emergence(9), [(9, "first · stays")]),
        (None, []),
    ],
)
def test_marks_name_each_row_once(
    marks: Story | Emergence | None, lines: list[tuple[int, str]]
) -> None:
    assert mark_lines(marks, 13, synthetic.grid(12, 16)) == lines


def test_labels_at_the_curves_ends_are_moved_apart_in_order() -> None:
    places = [0.0, 0.01, 0.5, 0.02, 0.99, 1.0]
    moved = spread(places, 0.075)
    order = sorted(range(6), key=lambda index: places[index])
    steps = [moved[b] - moved[a] for a, b in itertools.pairwise(order)]
    assert min(steps) >= 0.075 - 1e-9
    assert max(moved) <= 1 + 1e-9
    assert spread([], 0.1) == []


@pytest.mark.parametrize(("palette", "rising"), [(LIGHT, False), (DARK, True)])
def test_magnitudes_run_through_lightness_one_way(palette: Palette, rising: bool) -> None:
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
def test_text_and_curves_stand_out_from_the_surface(palette: Palette) -> None:
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


def test_figures_have_no_ground_of_their_own() -> None:
    assert base_layout("dark")["paper_bgcolor"] == "rgba(0,0,0,0)"
