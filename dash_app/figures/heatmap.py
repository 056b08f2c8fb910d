"""The layer-by-token heatmap: what each residual state reads as, and how surely."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from analysis.results import Grid, RunResult
from dash_app.figures.labels import (
    labels,
    percent,
    plain,
    row_name,
    token_markup,
    width,
)
from dash_app.theme import (
    MONO,
    Figure,
    Theme,
    axis,
    base_layout,
    colour_bar,
    palette,
    scale,
)

Colour = Literal["probability", "entropy"]

#: Room that a panel of the page has, in pixels; columns grow to fill it.
ROOM = 790
#: Column widths in pixels: narrowest with text, widest, and narrowest of all.
READABLE, WIDEST, NARROWEST = 58, 116, 12
#: More columns than this are drawn narrow and without text.
TEXT_COLUMNS = 160
#: Texts that plotly draws itself; what scrolls into view later is written by the browser.
TEXT_CELLS = 1000
#: Width of a character of cell text, in pixels, with its font size.
CHARACTER, CELL_FONT = 6.7, 11
MARGIN = {"l": 128, "r": 12, "t": 74, "b": 40, "pad": 0, "autoexpand": False}


def heatmap(
    grid: Grid,
    run: RunResult,
    *,
    colour: Colour,
    row: int,
    pos: int,
    theme: Theme,
) -> Figure:
    """Rows by positions, the decoded token in each cell.

    The layout's ``width`` and ``height`` are pixels to draw at: many positions make a wide figure
    that scrolls, not narrow cells. ``layout.shapes`` holds the selection alone, so moving it is a
    patch of that one property.
    """
    column = column_width(len(grid.positions))
    colours = palette(theme)
    return {
        "data": [_cells(grid, run, colour, pos, column, theme), _top_axis_anchor()],
        "layout": base_layout(
            theme,
            width=round(MARGIN["l"] + MARGIN["r"] + column * len(grid.positions)),
            height=MARGIN["t"] + MARGIN["b"] + row_height(len(grid.rows)) * len(grid.rows),
            margin=MARGIN,
            xaxis=_bottom_axis(grid, run, column, theme),
            xaxis2=_top_axis(grid, run, column, theme),
            yaxis=_row_axis(grid, theme),
            shapes=selection_shapes(row, pos, theme),
            font={"family": MONO, "size": 11, "color": colours.ink_2},
            hovermode="closest",
            meta={"view": "heatmap", "column": column},
        ),
    }


def column_width(count: int) -> float:
    """Pixels for one of ``count`` positions."""
    if count > TEXT_COLUMNS:
        return float(max(NARROWEST, TEXT_COLUMNS * READABLE // count))
    return float(min(WIDEST, max(READABLE, ROOM / max(count, 1))))


def row_height(count: int) -> int:
    """Pixels for one of ``count`` rows."""
    return int(min(30, max(19, 640 // max(count, 1))))


def selection_shapes(row: int, pos: int, theme: Theme) -> list[dict[str, Any]]:
    """The outline of the selected cell, for ``layout.shapes``: a halo and a line."""
    colours = palette(theme)
    box = {
        "type": "rect",
        "x0": pos - 0.5,
        "x1": pos + 0.5,
        "y0": row - 0.5,
        "y1": row + 0.5,
        "fillcolor": "rgba(0,0,0,0)",
    }
    return [
        {**box, "line": {"color": colours.surface, "width": 5}},
        {**box, "line": {"color": colours.select, "width": 2.5}, "name": "selection"},
    ]


def _cells(
    grid: Grid, run: RunResult, colour: Colour, pos: int, column: float, theme: Theme
) -> dict[str, Any]:
    texts = cell_labels(grid, column)
    shown, rest = _split_text(texts, grid, pos)
    values, title, top = _values(grid, colour)
    return {
        "type": "heatmap",
        "x": grid.positions,
        "y": grid.rows,
        "z": values,
        "zmin": 0.0,
        "zmax": top,
        "colorscale": scale(palette(theme).magnitude),
        "colorbar": _bar(title, theme),
        "xgap": 1,
        "ygap": 1,
        "text": shown,
        "texttemplate": "%{text}" if column >= READABLE else "",
        "textfont": {"family": MONO, "size": CELL_FONT},
        "customdata": _hover_lines(grid, run),
        "hovertemplate": "%{customdata}<extra></extra>",
        "meta": {"labels": rest},
    }


def cell_labels(grid: Grid, column: float) -> NDArray[np.object_]:
    """[row, pos] what is written into each cell: the best candidate, as much of it as fits."""
    room = int((column - 6) / CHARACTER)
    names = {token.id: token_markup(token, max(room, 2)) for token in grid.vocabulary}
    best = grid.token_ids[..., 0]
    written = np.array([names.get(int(token), "") for token in best.flat], dtype=object)
    return written.reshape(best.shape)


def _split_text(
    texts: NDArray[np.object_], grid: Grid, pos: int
) -> tuple[list[list[str]], list[list[str]]]:
    """Texts for plotly (columns around ``pos`` first), and all of them where plotly gets a part."""
    columns = max(1, TEXT_CELLS // max(1, texts.shape[0]))
    if texts.shape[1] <= columns:
        return texts.tolist(), []
    centre = int(np.abs(grid.positions - pos).argmin())
    start = min(max(0, centre - columns // 2), texts.shape[1] - columns)
    shown = np.full_like(texts, "")
    shown[:, start : start + columns] = texts[:, start : start + columns]
    return shown.tolist(), texts.tolist()


def _values(grid: Grid, colour: Colour) -> tuple[NDArray[Any], str, float]:
    if colour == "entropy":
        finite = grid.entropy[np.isfinite(grid.entropy)]
        return grid.entropy, "entropy, nats", float(finite.max()) if finite.size else 1.0
    best = grid.probs[..., 0]
    if np.isnan(best).all():
        finite = grid.scores[..., 0][np.isfinite(grid.scores[..., 0])]
        return grid.scores[..., 0], grid.similarity, float(finite.max()) if finite.size else 1.0
    return best, "probability of the token shown", 1.0


def _hover_lines(grid: Grid, run: RunResult) -> list[list[str]]:
    names = {token.id: token_markup(token, 18) for token in grid.vocabulary}
    pads = {token.id: 20 - width(plain(names[token.id])) for token in grid.vocabulary}
    heads = [_position_line(run, int(position)) for position in grid.positions]
    return [
        [
            f"<b>row {row}</b> · {row_name(int(row))}<br>{heads[column]}<br>"
            + _candidates(grid, names, pads, index, column)
            for column in range(len(grid.positions))
        ]
        for index, row in enumerate(grid.rows.tolist())
    ]


def _position_line(run: RunResult, position: int) -> str:
    read = token_markup(run.tokens[position], 18)
    if position + 1 >= len(run.tokens):
        return f"position {position} reads {read}, predicts what comes next"
    follows = token_markup(run.tokens[position + 1], 18)
    return f"position {position} reads {read}, next is {follows}"


def _candidates(
    grid: Grid, names: dict[int, str], pads: dict[int, int], row: int, column: int
) -> str:
    ids = grid.token_ids[row, column, :5].tolist()
    probs = grid.probs[row, column, :5].tolist()
    scores = grid.scores[row, column, :5].tolist()
    lines = [
        f"{names[token]}{' ' * pads[token]}{_amount(prob, score):>8}"
        for token, prob, score in zip(ids, probs, scores, strict=True)
        if token >= 0
    ]
    facts = f"entropy {grid.entropy[row, column]:.2f} nats · KL to final "
    return "<br>".join([*lines, f"{facts}{grid.kl_to_final[row, column]:.2f}"])


def _amount(prob: float, score: float) -> str:
    text = f"{score:.3g}" if math.isnan(prob) else percent(prob)
    return text.replace("<", "&lt;").replace(">", "&gt;")


def _bar(title: str, theme: Theme) -> dict[str, Any]:
    side = {"text": title, "side": "top", "font": {"size": 11, "color": palette(theme).ink_3}}
    return colour_bar(
        theme,
        "",
        title=side,
        orientation="h",
        x=0,
        xanchor="left",
        y=1,
        yref="paper",
        yanchor="bottom",
        ypad=24,
        xpad=0,
        lenmode="pixels",
        len=190,
        thickness=8,
        nticks=4,
    )


def _top_axis_anchor() -> dict[str, Any]:
    """Plotly draws an axis only if a trace uses it."""
    return {"type": "scatter", "x": [None], "y": [None], "xaxis": "x2", "hoverinfo": "skip"}


def _bottom_axis(grid: Grid, run: RunResult, column: float, theme: Theme) -> dict[str, Any]:
    colours = palette(theme)
    tokens = [run.tokens[position] for position in grid.positions.tolist()]
    room = max(2, int((column - 4) / CHARACTER))
    texts = [
        _tick(name, position, position >= run.prompt_length, theme)
        for name, position in zip(labels(tokens, room), grid.positions.tolist(), strict=True)
    ]
    return axis(
        theme,
        "",
        tickvals=grid.positions,
        ticktext=texts if column >= READABLE else None,
        tickangle=0,
        tickfont={"size": 11, "color": colours.ink, "family": MONO},
        range=_span(grid.positions),
    )


def _tick(name: str, position: int, answer: bool, theme: Theme) -> str:
    colours = palette(theme)
    ink = colours.answer if answer else colours.ink
    number = f'<span style="color:{colours.ink_3};font-size:10px">{position}</span>'
    return f'<span style="color:{ink}">{name}</span><br>{number}'


def _top_axis(grid: Grid, run: RunResult, column: float, theme: Theme) -> dict[str, Any]:
    colours = palette(theme)
    room = max(2, int((column - 4) / CHARACTER) - 1)
    texts = [
        f"→{token_markup(run.tokens[position + 1], room)}"
        if position + 1 < len(run.tokens)
        else "→?"
        for position in grid.positions.tolist()
    ]
    return axis(
        theme,
        "",
        overlaying="x",
        side="top",
        matches="x",
        tickvals=grid.positions,
        ticktext=texts if column >= READABLE else None,
        tickangle=0,
        tickfont={"size": 11, "color": colours.ink_3, "family": MONO},
        range=_span(grid.positions),
    )


def _row_axis(grid: Grid, theme: Theme) -> dict[str, Any]:
    colours = palette(theme)
    muted = f'<span style="color:{colours.ink_3}">'
    names = [
        f"{muted}{row_name(row) if grid.component == 'block_output' else 'layer'}</span> {row:>2} "
        for row in grid.rows.tolist()
    ]
    return axis(
        theme,
        "",
        tickvals=grid.rows,
        ticktext=names,
        tickfont={"size": 11, "color": colours.ink, "family": MONO},
        range=_span(grid.rows),
    )


def _span(values: NDArray[Any]) -> list[float]:
    return [float(values.min()) - 0.5, float(values.max()) + 0.5]
