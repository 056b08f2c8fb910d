"""The heatmap: its window, colours, texts and missing cells."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from analysis.lens.results import Colours, Grid
from analysis.lens.specs import ColourSpec, LensSpec
from dash_app.figures.colours import CellColours, cell_colours, effective
from dash_app.figures.heatmap import NOT_YET, heatmap
from dash_app.page.window import PAGE, Window, describe_window, empty_grid, laid_out, window
from tests.support import fake_results, synthetic

THEMES = ("light", "dark")


def everything(layers: int, tokens: int, bottom: int = 0) -> Window:
    rows = tuple(range(bottom, layers + 1))
    return Window(rows, tuple(range(tokens)), rows, tokens)


def drawn(
    grid: Grid, shown: Window, colour: str = "probability", row: int = 0, pos: int = 0, **more: Any
) -> dict[str, Any]:
    cells = laid_out(grid, shown)
    paints = cell_colours(colour, cells, more.pop("extra", None), shown, asked=synthetic.token(1))
    run = synthetic.run_result(len(shown.all_rows) - 1, shown.size)
    theme = more.pop("theme", "light")
    return heatmap(cells, run, paints, shown, row=row, pos=pos, theme=theme, **more)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("colour", ["probability", "entropy"])
@pytest.mark.parametrize(("layers", "tokens"), [(4, 3), (12, 16), (30, 64)])
def test_the_heatmap_is_a_valid_plotly_figure_with_the_shape_of_the_grid(
    theme: str, colour: str, layers: int, tokens: int
) -> None:
    grid, shown = synthetic.grid(layers, tokens), everything(layers, tokens)
    figure = drawn(grid, shown, colour, layers, tokens - 1, theme=theme)
    go.Figure(figure)
    trace = figure["data"][0]
    wanted = grid.probs[..., 0] if colour == "probability" else grid.entropy
    assert np.array_equal(trace["z"], wanted)
    assert np.shape(trace["customdata"]) == (layers + 1, tokens)
    assert np.shape(figure["layout"]["meta"]["labels"]) == (layers + 1, tokens)
    assert np.array_equal(figure["layout"]["meta"]["ids"], grid.token_ids[..., 0])


def test_the_selection_is_in_shapes_alone() -> None:
    grid, shown = synthetic.grid(4, 6), everything(4, 6)
    one, other = (drawn(grid, shown, row=row, pos=pos) for row, pos in ((4, 5), (2, 1)))
    shapes = one["layout"].pop("shapes"), other["layout"].pop("shapes")
    assert str(one) == str(other)
    assert (shapes[1][0]["x0"], shapes[1][0]["y0"]) == (0.5, 1.5)


def test_many_positions_make_a_wide_figure_not_narrow_cells() -> None:
    widths = [
        drawn(synthetic.grid(2, tokens), everything(2, tokens))["layout"]["meta"]["least"][0]
        for tokens in (8, 64)
    ]
    assert widths[1] > 3 * widths[0]


def test_hover_and_cells_hold_tokens_as_text() -> None:
    figure = drawn(synthetic.grid(12, 16), everything(12, 16))
    hovers = [text for line in figure["data"][0]["customdata"] for text in line]
    assert any("&lt;/a&gt;" in text for text in hovers)
    for text in hovers:
        assert re.fullmatch(r"[^<]*", re.sub(r"</?b>|<br>", "", text))
    written = figure["layout"]["meta"]["labels"]  # by the browser, as text and not as markup
    assert any("<b>" in text for line in written for text in line)


def test_cells_not_yet_computed_show_no_older_number() -> None:
    grid = synthetic.grid(4, 6)
    only = laid_out(grid, Window((0, 1, 2, 3, 4), (2,), (0, 1, 2, 3, 4), 6))
    known = np.arange(6) == 2
    figure = drawn(only, everything(4, 6), known=known)
    cells = np.array(figure["data"][0]["z"])
    assert np.isnan(cells[:, ~known]).all()
    assert np.array_equal(cells[:, 2], grid.probs[:, 2, 0])
    written = figure["layout"]["meta"]["labels"]
    assert all(line[0] == NOT_YET and line[2] != NOT_YET for line in written)
    assert "not computed yet" in figure["data"][0]["customdata"][3][0]
    assert figure["layout"]["meta"]["partial"]
    empty = empty_grid(synthetic.run_result(4, 6), LensSpec(), False)
    none = drawn(empty, everything(4, 6), known=np.zeros(6, bool))
    assert np.isnan(np.array(none["data"][0]["z"])).all()


def test_the_more_certain_decoder_is_marked() -> None:
    grid = synthetic.grid(4, 6)
    chosen = np.arange(30).reshape(5, 6) % 2
    both = dataclasses.replace(grid, chosen=chosen, decoder="max_probability")
    figure = drawn(both, everything(4, 6))
    written = figure["layout"]["meta"]["labels"]
    assert {text[:2] for line in written for text in line} == {"o|", "i|"}
    assert written[0][1].startswith("i|")
    assert "decoded by the input decoder" in figure["data"][0]["customdata"][0][1]
    assert "decoded by the output decoder" in figure["data"][0]["customdata"][0][0]


def test_a_component_is_drawn_at_the_row_it_writes_to() -> None:
    whole = synthetic.grid(4, 6)
    part = {name: getattr(whole, name)[:4] for name in colours_of_cells()}
    grid = dataclasses.replace(whole, rows=np.arange(4), component="mlp_output", **part)
    shown = everything(4, 6, bottom=1)
    figure = drawn(grid, shown, row=3, pos=1)
    assert figure["layout"]["meta"]["rows"] == [1, 2, 3, 4]
    assert figure["layout"]["shapes"][0]["y0"] == 1.5  # row 3 is the third shown
    assert "layer  2" in figure["layout"]["yaxis"]["ticktext"][2]
    assert "<b>layer 2: what the MLP adds</b>" in figure["data"][0]["customdata"][2][0]
    assert not drawn(grid, shown, row=0, pos=1)["layout"]["shapes"][0]["visible"]


def colours_of_cells() -> tuple[str, ...]:
    names = ("token_ids", "probs", "scores", "entropy", "kl_to_final", "target_probs")
    return (*names, "target_ranks", "chosen", "explained")


# What is shown


def test_the_chosen_row_is_never_folded() -> None:
    run = synthetic.run_result(64, 9)
    shown = window(run, False, row=13, pos=0, fold=8)
    assert shown.rows == (0, 8, 13, 16, 24, 32, 40, 48, 56, 64)
    assert window(run, False, row=13, pos=0).rows == tuple(range(65))
    assert window(run, True, row=0, pos=0, fold=32).rows == (1, 33, 64)
    assert describe_window(shown) == "10 of 65 rows (folded), all 9 positions"


@pytest.mark.parametrize(
    ("show", "pos", "positions", "said"),
    [
        ("", 300, range(256, 384), "positions 256 to 383 of 512"),
        ("0-127", 300, range(128), "positions 0 to 127 of 512"),
        ("500-600", 300, range(500, 512), "positions 500 to 511 of 512"),
        ("answer", 0, range(509, 512), "positions 509 to 511 of 512"),
        ("all", 0, range(512), "all 512 positions"),
        ("600-700", 0, (), "no positions"),
    ],
)
def test_positions_are_paged_and_the_caption_states_the_rest(
    show: str, pos: int, positions: Any, said: str
) -> None:
    run = synthetic.run_result(2, 512)
    shown = window(run, False, row=0, pos=pos, show=show)
    assert shown.positions == tuple(positions)
    assert describe_window(shown) == f"all rows, {said}"
    figure = drawn(synthetic.grid(2, 512), shown, pos=pos)
    assert figure["data"][0]["z"].shape == (3, len(shown.positions))
    assert figure["layout"]["meta"]["positions"] == list(shown.positions)


def test_a_short_run_is_one_page() -> None:
    shown = window(synthetic.run_result(2, PAGE), False, row=0, pos=0)
    assert shown.whole


# Colours


def extras(tokens: int, **lens: Any) -> Colours:
    return fake_results.colours(tokens, ColourSpec(LensSpec(**lens)))


def painted(colour: str, **more: Any) -> CellColours:
    shown = everything(12, 9)
    cells = laid_out(synthetic.grid(12, 9), shown)
    return cell_colours(colour, cells, extras(9), shown, asked=synthetic.token(1), **more)


def test_every_colour_has_a_unit_a_range_and_words() -> None:
    for colour in (
        "probability", "token_probability", "token_rank", "rank_change", "entropy", "kl",
        "cross_entropy", "share", "state_norm", "cosine_before", "score",
    ):  # fmt: skip
        made = painted(colour)
        finite = made.values[np.isfinite(made.values)]
        assert made.values.shape == (13, 9)
        assert finite.size
        assert made.low - 1e-6 <= finite.min() <= finite.max() <= made.high + 1e-6, colour
        assert made.title
        if made.words:
            assert made.words(float(finite[0]))
        if made.ticks[0]:
            assert len(made.ticks[0]) == len(made.ticks[1]) >= 2
            assert made.ticks[0] == sorted(made.ticks[0]) or colour == "token_rank"


def test_signed_colours_have_zero_in_the_middle() -> None:
    for colour in ("rank_change", "cosine_before"):
        made = painted(colour)
        assert made.signed
        assert made.low == -made.high


def test_logarithmic_colours_give_back_the_number() -> None:
    grid, extra = synthetic.grid(12, 9), extras(9)
    ranks = painted("token_rank")
    assert np.allclose(10**-ranks.values, grid.target_ranks[..., 0] + 1)
    assert ranks.words is not None
    assert ranks.words(-math.log10(17)).endswith(" 17")
    assert np.allclose(10 ** painted("state_norm").values, extra.state_norm, rtol=1e-5)
    change = painted("rank_change")
    back = np.sign(change.values) * (10 ** np.abs(change.values) - 1)
    assert np.allclose(back, extra.rank_change, equal_nan=True, atol=1e-3)
    assert change.words is not None
    assert change.words(math.log10(5)) == "rose 4 places since the row before"
    assert change.words(-math.log10(3)) == "fell 2 places since the row before"
    assert change.words(0.0) == "same rank in the row before"


def test_a_share_is_drawn_at_the_row_that_its_block_writes() -> None:
    shown = everything(12, 9)
    extra = extras(9)
    shares = extra.shares.copy()
    shares[0, 1, 4] = 0.9  # by norm, attention, layer 4
    made = cell_colours(
        "share", laid_out(synthetic.grid(12, 9), shown), dataclasses.replace(extra, shares=shares),
        shown, part="attention", by="norm",
    )  # fmt: skip
    assert np.isnan(made.values[0]).all()
    assert np.allclose(made.values[5], 0.9)
    assert np.allclose(made.values[6], 0.3)
    assert "attention's share" in made.title
    assert "(Norm)" in made.title


def test_colours_of_a_component_are_drawn_at_the_row_it_writes() -> None:
    extra = extras(9, component="mlp_output")
    norms = np.ones((12, 9), np.float32)
    norms[4, 7] = 100.0
    shown = everything(12, 9, bottom=1)
    made = cell_colours(
        "state_norm", synthetic.grid(12, 9), dataclasses.replace(extra, state_norm=norms), shown
    )
    assert np.argwhere(made.values > 1.9).tolist() == [[shown.rows.index(5), 7]]


def wide(colour: str) -> CellColours:
    """A colour whose numbers span many powers of ten."""
    powers = np.logspace(-2, 4.4, 13 * 9).reshape(13, 9)
    ranks = np.repeat(np.round(powers * 2).astype(np.int64)[..., None], 2, -1)
    grid = dataclasses.replace(synthetic.grid(12, 9), target_ranks=ranks)
    change = np.round(np.where(np.arange(9) % 2, powers, -powers))
    extra = dataclasses.replace(extras(9), state_norm=powers, rank_change=change)
    shown = everything(12, 9)
    return cell_colours(colour, laid_out(grid, shown), extra, shown, asked=synthetic.token(1))


@pytest.mark.parametrize(
    ("colour", "drawn"),
    [
        ("token_rank", lambda number: -math.log10(number)),
        ("state_norm", math.log10),
        ("rank_change", lambda number: math.copysign(math.log10(1 + abs(number)), number)),
    ],
)
def test_ticks_show_their_numbers(colour: str, drawn: Any) -> None:
    made = wide(colour)
    finite = made.values[np.isfinite(made.values)]
    assert made.low - 1e-6 <= finite.min() <= finite.max() <= made.high + 1e-6
    at, texts = made.ticks
    assert 2 <= len(at) <= 9
    said = [float(text.replace(",", "").replace("−", "-")) for text in texts]
    for place, number in zip(at, said, strict=True):
        assert drawn(number) == pytest.approx(place) if number else place == 0.0
    assert max(abs(number) for number in said) >= 1000


def test_colours_not_yet_computed_are_blank() -> None:
    shown = everything(12, 9)
    made = cell_colours("state_norm", laid_out(synthetic.grid(12, 9), shown), None, shown)
    assert np.isnan(made.values).all()


def test_scores_replace_missing_probabilities() -> None:
    grid = synthetic.grid(4, 6)
    bare = dataclasses.replace(grid, probs=np.full_like(grid.probs, np.nan), similarity="cosine")
    assert effective("probability", "cosine") == "score"
    assert effective("state_norm", "cosine") == "state_norm"
    assert effective("probability", "dot") == "probability"
    figure = drawn(bare, everything(4, 6), "score")
    assert np.array_equal(figure["data"][0]["z"], grid.scores[..., 0])
    assert "cosine" in figure["data"][0]["colorbar"]["title"]["text"]


def test_hover_shows_score_and_explained_share() -> None:
    grid = synthetic.grid(4, 6)
    peeled = dataclasses.replace(
        grid, probs=np.full_like(grid.probs, np.nan), explained=np.full_like(grid.probs, 0.25)
    )
    text = drawn(peeled, everything(4, 6), "state_norm", extra=None)["data"][0]["customdata"][2][3]
    assert "explains 25 %" in text
    assert f"{grid.scores[2, 3, 0]:.3g}" in text
    assert "this colour has no value here" in text
