"""Parts of the figures of tasks: a heatmap with numbers, a line, a title."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dash_app.figures.colours import cell_texts
from dash_app.page.theme import Figure, Scale, Theme, axis, base_layout, colour_bar, palette, scale
from dash_app.page.token_labels import layer_name, row_name


def line(x: Any, y: Any, name: str, colour: str, dash: str = "solid") -> dict[str, Any]:
    """A line of shares ``y``, with its name in the hover box."""
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": x,
        "y": y,
        "name": name,
        "line": {"color": colour, "width": 2, "dash": dash},
        "marker": {"size": 5},
        "hovertemplate": f"%{{y:.1%}}<br>{name}<extra></extra>",
    }


def part_name(component: str) -> str:
    """A component in the words of the page: "after layer 2" for "row 3"; others as they are."""
    kind, _, number = component.partition(" ")
    return row_name(int(number)) if kind == "row" else component


def mean_layer(*rows: float) -> list[str]:
    """Mean rows as layers: the state at row 3 is that after layer 2, and the embedding is -1."""
    return [f"{row - 1:.1f}" for row in rows]


def layer_axis(theme: Theme, title: str, last: int, **more: Any) -> dict[str, Any]:
    """An axis of the residual states at rows 0 to ``last``, named by the layer before each."""
    step = 1 if last <= 15 else 5 if last <= 40 else 10
    places = [row for row in range(last + 1) if row == 0 or (row > 1 and (row - 1) % step == 0)]
    names = [layer_name(row) for row in places]
    return axis(theme, title, tickvals=places, ticktext=names, tickangle=0, **more)


def matrix(
    values: Any,
    *,
    columns: Sequence[str],
    rows: Sequence[str],
    theme: Theme,
    quantity: str,
    low: float = 0.0,
    high: float = 1.0,
    signed: bool = False,
    title: str = "",
    x_title: str = "",
    links: Sequence[Sequence[str]] = (),
    hover: Sequence[Sequence[str]] = (),
) -> Figure:
    """A heatmap of ``values`` [row, column] with the number in each cell; NaN stays blank.

    ``links`` [row][column] is the target of a click on a cell, ``hover`` its name.
    """
    cells = np.asarray(values, np.float32)
    stops = palette(theme).signed if signed else palette(theme).magnitude
    heat = {
        **_cells(cells, rows, columns, quantity, hover),
        "zmin": low,
        "zmax": high,
        "colorscale": scale(stops),
        "colorbar": colour_bar(theme, quantity),
    }
    return {
        "data": [
            {**heat, "customdata": [list(line) for line in links]} if links else heat,
            *_numbers(cells, low, high, stops),
        ],
        "layout": base_layout(
            theme,
            meta={"view": "tasks"},
            height=_height(len(rows)),
            title=title_of(title, theme),
            margin=_margin(76 if x_title else 56),
            xaxis=axis(theme, x_title, **_named(columns)),
            yaxis=axis(theme, autorange="reversed", **_named(rows)),
        ),
    }


def _numbers(
    cells: NDArray[np.float32], low: float, high: float, stops: Scale
) -> list[dict[str, Any]]:
    """The number in each cell, if there is room for it."""
    if max(cells.shape) > 24:
        return []
    texts = [["" if np.isnan(one) else f"{one:.2f}" for one in line] for line in cells]
    return cell_texts(cells, texts, low, high, stops, size=9)


def _margin(below: int) -> dict[str, Any]:
    return {"l": 96, "r": 78, "t": 36, "b": below, "pad": 0, "autoexpand": False}


def _named(names: Sequence[str]) -> dict[str, Any]:
    places = list(range(len(names)))
    return {"tickmode": "array", "tickangle": 0, "tickvals": places, "ticktext": list(names)}


def _height(rows: int) -> int:
    """Height that fits a number in each cell; less for many rows."""
    return (26 if rows <= 24 else 15) * rows + 138


def title_of(text: str, theme: Theme) -> dict[str, Any]:
    """A figure's title: small, at the left."""
    font = {"size": 13, "color": palette(theme).ink}
    return {"text": text, "x": 0.01, "y": 0.98, "yanchor": "top", "font": font}


def _cells(
    values: Any,
    rows: Sequence[str],
    columns: Sequence[str],
    quantity: str,
    hover: Sequence[Sequence[str]],
) -> dict[str, Any]:
    named = [[f"{row} · {column}" for column in columns] for row in rows]
    return {
        "type": "heatmap",
        "z": values,
        "x": list(range(len(columns))),
        "y": list(range(len(rows))),
        "hovertext": [list(line) for line in hover] or named,
        "xgap": 1,
        "ygap": 1,
        "hoverongaps": False,
        "hovertemplate": "%{hovertext}<br>" + quantity + " %{z:.3f}<extra></extra>",
    }
