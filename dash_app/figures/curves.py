"""How the probability or rank of pinned tokens moves over the rows at one position."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from analysis.results import Emergence, Grid, RunResult, Story
from dash_app.figures.labels import row_name, token_markup
from dash_app.theme import Figure, Theme, axis, base_layout, palette, rgba

Quantity = Literal["probability", "log_probability", "rank"]

#: What the marks are called, in the order in which they are drawn.
MARKS = (("first_top1", "first"), ("emergence", "emerges"), ("saturation", "stays"))
_FLOOR = 1e-6


def curves(
    grid: Grid,
    run: RunResult,
    *,
    pos: int,
    quantity: Quantity,
    marks: Emergence | Story | None,
    theme: Theme,
    row: int | None = None,
) -> Figure:
    """One curve for each of the grid's target tokens, at the position ``pos``.

    ``marks`` adds the emergence rows of the model's own (or the story's) token; ``row`` the page's
    selected row. ``layout.shapes[0]`` is the selected row, so moving it is a patch.
    """
    lines = mark_lines(marks, pos, grid)
    return {
        "data": [
            _curve(grid, index, pos, quantity, theme) for index in range(len(grid.target_ids))
        ],
        "layout": base_layout(
            theme,
            height=320,
            margin={"l": 60, "r": 130, "t": 34, "b": 48, "pad": 0, "autoexpand": False},
            xaxis=_row_axis(grid, theme),
            yaxis=_value_axis(grid, pos, quantity, theme),
            shapes=[_selected(row, theme), *(_mark_shape(at, theme) for at, _ in lines)],
            annotations=[
                *_mark_labels(lines, grid, theme),
                *_end_labels(grid, pos, quantity, theme),
            ],
            hovermode="x unified",
            meta={"view": "curves", "position": pos, "tokens": len(run.tokens)},
        ),
    }


def mark_lines(marks: Emergence | Story | None, pos: int, grid: Grid) -> list[tuple[int, str]]:
    """Rows to mark, each once, with everything that happens there: (row, label)."""
    if marks is None or (isinstance(marks, Story) and marks.position != pos):
        return []
    named: dict[int, list[str]] = {}
    for field, name in MARKS:
        value = getattr(marks, field)
        at = value[pos] if isinstance(value, tuple) else value
        if at is not None and at in grid.rows:
            named.setdefault(int(at), []).append(name)
    return [(at, " · ".join(names)) for at, names in sorted(named.items())]


def series(grid: Grid, index: int, pos: int, quantity: Quantity) -> NDArray[Any]:
    """[row] values of target number ``index`` at ``pos``: probability, or rank from 1."""
    column = int(np.flatnonzero(grid.positions == pos)[0])
    if quantity == "rank":
        return grid.target_ranks[:, column, index] + 1
    values = grid.target_probs[:, column, index]
    return np.maximum(values, _FLOOR) if quantity == "log_probability" else values


def _curve(grid: Grid, index: int, pos: int, quantity: Quantity, theme: Theme) -> dict[str, Any]:
    colour = _colour(index, theme)
    name = token_markup(grid.token(int(grid.target_ids[index])), 16)
    value = "rank %{y:,}" if quantity == "rank" else "%{y:.2~%}"
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": grid.rows,
        "y": series(grid, index, pos, quantity),
        "line": {"color": colour, "width": 2},
        "marker": {"color": colour, "size": 4},
        "name": name,
        "hovertemplate": f"{name}  {value}<extra></extra>",
    }


def _colour(index: int, theme: Theme) -> str:
    categories = palette(theme).categories
    return categories[index % len(categories)]


def _row_axis(grid: Grid, theme: Theme) -> dict[str, Any]:
    rows = grid.rows.tolist()
    step = 1 if len(rows) <= 16 else 5
    ticks = [row for row in rows if row % step == 0]
    texts = ["emb." if row == 0 else str(row) for row in ticks]
    return axis(
        theme,
        "row (row r is the state after layer r − 1)",
        tickvals=ticks,
        ticktext=texts,
        range=[rows[0] - 0.5, rows[-1] + 0.5],
        showline=True,
        showspikes=False,
        unifiedhovertitle={"text": "row %{x}"},
    )


def _value_axis(grid: Grid, pos: int, quantity: Quantity, theme: Theme) -> dict[str, Any]:
    grid_line = {"showgrid": True}
    if quantity == "probability":
        return axis(theme, "probability", range=[-0.02, 1.04], tickformat=".0%", **grid_line)
    if quantity == "log_probability":
        return axis(
            theme,
            "probability (log)",
            type="log",
            range=[-6.2, 0.15],
            tickvals=[1e-6, 1e-4, 1e-2, 1],
            ticktext=["≤10⁻⁶", "10⁻⁴", "1 %", "100 %"],
            **grid_line,
        )
    worst = max(
        (int(series(grid, i, pos, "rank").max()) for i in range(len(grid.target_ids))), default=1
    )
    top = float(np.log10(max(worst, 10))) + 0.15
    ticks = [10**power for power in range(int(top) + 1)]
    return axis(
        theme,
        "rank (log, 1 is best)",
        type="log",
        range=[top, -0.15],
        tickvals=ticks,
        ticktext=[f"{tick:,}" for tick in ticks],
        **grid_line,
    )


def _selected(row: int | None, theme: Theme) -> dict[str, Any]:
    at = -1 if row is None else row
    return {
        "type": "rect",
        "xref": "x",
        "yref": "paper",
        "x0": at - 0.5,
        "x1": at + 0.5,
        "y0": 0,
        "y1": 1,
        "layer": "below",
        "fillcolor": rgba(palette(theme).select, 0.14),
        "line": {"width": 0},
        "visible": row is not None,
    }


def _mark_shape(at: int, theme: Theme) -> dict[str, Any]:
    line = {"color": palette(theme).ink_3, "width": 1, "dash": "4px,3px"}
    return {
        "type": "line",
        "xref": "x",
        "yref": "paper",
        "x0": at,
        "x1": at,
        "y0": 0,
        "y1": 1,
        "layer": "below",
        "line": line,
    }


def _mark_labels(lines: list[tuple[int, str]], grid: Grid, theme: Theme) -> list[dict[str, Any]]:
    """Labels above the plot, in two storeys and on alternating sides where lines are close."""
    close = max(3.0, 0.16 * len(grid.rows))
    annotations: list[dict[str, Any]] = []
    for number, (at, text) in enumerate(lines):
        crowded = number > 0 and at - lines[number - 1][0] < close
        lower = crowded and annotations[-1]["yshift"] > 12
        right = at < grid.rows[-1] - 4
        annotations.append(
            {
                "x": at,
                "y": 1,
                "xref": "x",
                "yref": "paper",
                "text": f"{text} {at}",
                "showarrow": False,
                "xanchor": "left" if right else "right",
                "yanchor": "bottom",
                "yshift": 2 if lower else 16,
                "font": {"size": 11, "color": palette(theme).ink_2},
            }
        )
    return annotations


def _end_labels(grid: Grid, pos: int, quantity: Quantity, theme: Theme) -> list[dict[str, Any]]:
    """The tokens' names at the right end of their curves, moved apart where they would overlap."""
    ends = [float(series(grid, i, pos, quantity)[-1]) for i in range(len(grid.target_ids))]
    logs = quantity != "probability"
    heights = [np.log10(value) if logs else value for value in ends]
    places = spread([_height(value, grid, pos, quantity) for value in heights], 0.075)
    return [
        {
            "x": 1,
            "y": place,
            "xref": "paper",
            "yref": "paper",
            "text": token_markup(grid.token(int(grid.target_ids[index])), 14),
            "showarrow": False,
            "xanchor": "left",
            "yanchor": "middle",
            "xshift": 8,
            "font": {"size": 12, "color": _colour(index, theme)},
        }
        for index, place in enumerate(places)
    ]


def _height(value: float, grid: Grid, pos: int, quantity: Quantity) -> float:
    """Where ``value`` (a logarithm on a log axis) lies on the paper, 0 to 1."""
    low, high = _value_axis(grid, pos, quantity, "light")["range"]
    return float((value - low) / (high - low))


def spread(places: list[float], gap: float) -> list[float]:
    """The same places moved apart, in order, so that neighbours are at least ``gap`` away."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = list(places)
    for before, after in itertools.pairwise(order):
        moved[after] = max(moved[after], moved[before] + gap)
    excess = moved[order[-1]] - 1.0 if order else 0.0
    return [place - excess for place in moved] if excess > 0 else moved


def row_title(row: int) -> str:
    """A row's full name, for a caption."""
    return f"row {row}, {row_name(row)}"
