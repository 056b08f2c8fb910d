"""The layer-by-token heatmap: what each state reads as, and how surely."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.lens.results import Grid
from analysis.tracing.specs import RunResult
from dash_app.figures.cells import CHARACTER, NOT_YET, cell_labels, hover_lines, row_texts
from dash_app.figures.colours import Paint
from dash_app.page.theme import MONO, Figure, Theme, axis, base_layout, colour_bar, palette, scale
from dash_app.page.token_labels import labels, token_markup
from dash_app.page.window import Window

#: Room that a panel of the page has, in pixels; columns grow to fill it.
ROOM = 790
#: Column widths in pixels: narrowest with text, widest, and narrowest of all.
READABLE, WIDEST, NARROWEST = 58, 116, 12
#: More columns than this are drawn narrow and without text.
TEXT_COLUMNS = 160
MARGIN = {"l": 136, "r": 12, "t": 74, "b": 40, "pad": 0, "autoexpand": False}


def heatmap(
    grid: Grid,
    run: RunResult,
    paint: Paint,
    shown: Window,
    *,
    row: int,
    pos: int,
    theme: Theme,
    known: NDArray[np.bool_] | None = None,
) -> Figure:
    """Rows by positions, the decoded token in each cell.

    Both axes count what is shown from 0; ``layout.meta`` names its rows and positions, and has the
    cells' tokens, which the browser writes where they are in sight (``assets/js/heatmap.js``).
    ``layout.shapes`` holds the selection alone, so moving it is a patch of that one property.

    Args:
        grid: Laid out in the window.
        run: Whose tokens.
        paint: Colours.
        shown: The window.
        row: The chosen cell's row.
        pos: Its position.
        theme: Of the page.
        known: [pos] which columns are computed; None: all.
    """
    known = np.ones(len(shown.positions), bool) if known is None else known
    column = column_width(len(shown.positions))
    meta = {
        "labels": cell_labels(grid, column, known) if column >= READABLE else [],
        "ids": grid.token_ids[..., 0].tolist(),
        "partial": not bool(known.all()),
    }
    told = hover_lines(grid, run, shown, paint, known)
    return framed(
        paint, told, meta, run, shown, row=row, pos=pos, theme=theme, component=grid.component
    )


def framed(
    paint: Paint,
    told: list[list[str]],
    meta: dict[str, Any],
    run: RunResult,
    shown: Window,
    *,
    row: int,
    pos: int,
    theme: Theme,
    component: str = "block_output",
) -> Figure:
    """Any picture of rows by positions, with its axes, colour key and outline.

    ``told`` is what the pointer is told, [row][pos]; ``meta`` what the browser works with: "labels"
    and "ids" of the cells. The rest is as in ``heatmap``.
    """
    column, high = column_width(len(shown.positions)), row_height(len(shown.rows))
    places = {"rows": list(shown.rows), "positions": list(shown.positions)}
    return {
        "data": [_cells(paint, told, shown, theme), _top_axis_anchor()],
        "layout": base_layout(
            theme,
            width=round(MARGIN["l"] + MARGIN["r"] + column * max(len(shown.positions), 1)),
            height=MARGIN["t"] + MARGIN["b"] + high * len(shown.rows),
            margin=MARGIN,
            xaxis=_bottom_axis(run, shown, column, theme),
            xaxis2=_top_axis(run, shown, column, theme),
            yaxis=_row_axis(component, shown, theme),
            shapes=selection_shapes(shown, row, pos, theme),
            font={"family": MONO, "size": 11, "color": palette(theme).ink_2},
            hovermode="closest",
            meta={"view": "heatmap", "column": column, **places, "waiting": NOT_YET, **meta},
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


def selection_shapes(shown: Window, row: int, pos: int, theme: Theme) -> list[dict[str, Any]]:
    """The outline of the selected cell, for ``layout.shapes``: a halo and a line."""
    colours = palette(theme)
    inside = row in shown.rows and pos in shown.positions
    down = shown.rows.index(row) if inside else 0
    across = shown.positions.index(pos) if inside else 0
    box = {
        "type": "rect",
        "x0": across - 0.5,
        "x1": across + 0.5,
        "y0": down - 0.5,
        "y1": down + 0.5,
        "fillcolor": "rgba(0,0,0,0)",
        "visible": inside,
    }
    return [
        {**box, "line": {"color": colours.surface, "width": 5}},
        {**box, "line": {"color": colours.select, "width": 2.5}, "name": "selection"},
    ]


def _cells(paint: Paint, told: list[list[str]], shown: Window, theme: Theme) -> dict[str, Any]:
    colours = palette(theme)
    return {
        "type": "heatmap",
        "x": np.arange(len(shown.positions)),
        "y": np.arange(len(shown.rows)),
        "z": paint.values,
        "zmin": paint.low,
        "zmax": paint.high,
        "colorscale": scale(colours.signed if paint.signed else colours.magnitude),
        "colorbar": _bar(paint, theme),
        "xgap": 1,
        "ygap": 1,
        "hoverongaps": True,
        "customdata": told,
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _bar(paint: Paint, theme: Theme) -> dict[str, Any]:
    font = {"size": 11, "color": palette(theme).ink_3}
    ticks: dict[str, Any] = {"nticks": 4}
    if paint.ticks[0]:
        ticks = {"tickmode": "array", "tickvals": paint.ticks[0], "ticktext": paint.ticks[1]}
    return colour_bar(
        theme,
        "",
        title={"text": paint.title, "side": "top", "font": font},
        orientation="h",
        x=0,
        xanchor="left",
        y=1,
        yref="paper",
        yanchor="bottom",
        ypad=24,
        xpad=0,
        lenmode="pixels",
        len=230,
        thickness=8,
        **ticks,
    )


def _top_axis_anchor() -> dict[str, Any]:
    """Plotly draws an axis only if a trace uses it."""
    return {"type": "scatter", "x": [None], "y": [None], "xaxis": "x2", "hoverinfo": "skip"}


def _bottom_axis(run: RunResult, shown: Window, column: float, theme: Theme) -> dict[str, Any]:
    room = max(2, int((column - 4) / CHARACTER))
    names = labels([run.tokens[position] for position in shown.positions], room)
    texts = [
        _tick(name, position, position >= run.prompt_length, theme)
        for name, position in zip(names, shown.positions, strict=True)
    ]
    return _token_axis(shown, texts, column, theme, palette(theme).ink)


def _tick(name: str, position: int, answer: bool, theme: Theme) -> str:
    colours = palette(theme)
    ink = colours.answer if answer else colours.ink
    number = f'<span style="color:{colours.ink_3};font-size:10px">{position}</span>'
    return f'<span style="color:{ink}">{name}</span><br>{number}'


def _top_axis(run: RunResult, shown: Window, column: float, theme: Theme) -> dict[str, Any]:
    room = max(2, int((column - 4) / CHARACTER) - 1)
    texts = [
        f"→{token_markup(run.tokens[position + 1], room)}"
        if position + 1 < len(run.tokens)
        else "→?"
        for position in shown.positions
    ]
    further = {"overlaying": "x", "side": "top", "matches": "x"}
    return _token_axis(shown, texts, column, theme, palette(theme).ink_3, **further)


def _token_axis(
    shown: Window, texts: list[str], column: float, theme: Theme, ink: str, **further: Any
) -> dict[str, Any]:
    """Tokens under each column; where columns are narrow, every so manieth position's number."""
    places = list(range(len(texts)))
    if column < READABLE:
        places = [place for place in places if shown.positions[place] % 16 == 0]
        texts = [str(shown.positions[place]) for place in places]
    return axis(
        theme,
        "",
        tickvals=places,
        ticktext=texts,
        tickangle=0,
        tickfont={"size": 11, "color": ink, "family": MONO},
        range=_span(shown.positions),
        **further,
    )


def _row_axis(component: str, shown: Window, theme: Theme) -> dict[str, Any]:
    colours = palette(theme)
    return axis(
        theme,
        "",
        tickvals=list(range(len(shown.rows))),
        ticktext=row_texts(component, shown.rows, colours.ink_3),
        tickfont={"size": 11, "color": colours.ink, "family": MONO},
        range=_span(shown.rows),
    )


def _span(shown: Sequence[int]) -> list[float]:
    return [-0.5, max(len(shown), 1) - 0.5]
