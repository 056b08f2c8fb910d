"""The picture of a result, as the page draws it: what ``Result.plot`` returns.

Most pictures are plotly figures, made by the functions that draw the page. The flow is an SVG. A
result that the page lists in words or tables is drawn as its main table.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from analysis.contract.sheets import Frame
from analysis.contract.specs import Result, Token
from analysis.errors import SpecError
from analysis.export.sheets import frames, sheets_of
from dash_app.figures.colours import cell_texts
from dash_app.figures.heatmap import MARGIN, READABLE, column_width
from dash_app.page.theme import MONO, SANS, Figure, Theme, palette
from dash_app.page.token_labels import markup
from dash_app.pictures.figures import PICTURES
from dash_app.pictures.flow_svg import FlowPicture, Shown

#: Width and height of a figure that has no size of its own, in pixels; height of a heatmap's row.
WIDE, HIGH, ROW = 760, 440, 19
#: Rows of a table in a picture.
ROWS = 40


def plot(
    result: Result,
    tokens: Sequence[Token] = (),
    kind: str = "",
    *,
    theme: Shown = "light",
    **options: Any,
) -> Any:
    """``Result.plot``: a plotly figure, or a ``FlowPicture``."""
    made = figure(result, tokens, kind, theme=theme, **options)
    if isinstance(made, FlowPicture):
        return made
    from plotly.graph_objects import Figure as PlotlyFigure

    return PlotlyFigure(_for_notebook(made, "dark" if theme == "dark" else "light"))


def kinds(result: Result) -> tuple[str, ...]:
    """The names of a result's pictures, the main one first."""
    return tuple(_drawings(result))


def figure(
    result: Result,
    tokens: Sequence[Token] = (),
    kind: str = "",
    *,
    theme: Shown = "light",
    **options: Any,
) -> Figure | FlowPicture:
    """The page's figure of a result, as a plain dict; a ``FlowPicture`` for a flow of shares.

    Raises:
        SpecError: If there is no such picture or option.
    """
    found = _drawings(result)
    chosen = kind or next(iter(found))
    if chosen not in found:
        raise SpecError(f"There is no picture {chosen!r}.", f"Choose one of: {', '.join(found)}.")
    draw = found[chosen]
    known = [
        name
        for name, one in inspect.signature(draw).parameters.items()
        if one.kind is one.KEYWORD_ONLY and name != "theme"
    ]
    if unknown := sorted(set(options) - set(known)):
        hint = f"Use: {', '.join(known)}." if known else "Leave it out."
        raise SpecError(f"The picture {chosen!r} has no option {unknown[0]!r}.", hint)
    made: Figure | FlowPicture = draw(result, tuple(tokens), theme=theme, **options)
    return made


def with_texts(figure: Figure, theme: Theme) -> Figure:
    """A heatmap with the tokens that the browser writes into its cells (``heatmap.js``)."""
    meta = figure["layout"].get("meta") or {}
    texts = meta.get("labels") or []
    column = column_width(len(meta.get("positions", ())))
    if meta.get("view") != "heatmap" or not texts or column < READABLE:
        return figure
    cells, room = figure["data"][0], int((column - 6) / 6.7)
    short = [[one if len(one) <= room else one[: room - 1] + "…" for one in row] for row in texts]
    colours = palette(theme)
    traces = cell_texts(
        np.asarray(cells["z"], float), short, cells["zmin"], cells["zmax"],
        colours.signed if cells["zmin"] < 0 else colours.magnitude, family=MONO, size=11,
    )  # fmt: skip
    return {**figure, "data": [*figure["data"], *traces]}


def size_of(figure: Figure) -> tuple[int, int]:
    """Width and height of a figure in pixels: its own, or what it needs."""
    layout = figure["layout"]
    meta = layout.get("meta") or {}
    least = meta.get("least") or (0, 0)
    wide, high = WIDE, HIGH
    if meta.get("view") == "heatmap":
        count = len(meta["positions"])
        wide = round(MARGIN["l"] + MARGIN["r"] + count * column_width(count))
        high = MARGIN["t"] + MARGIN["b"] + ROW * len(meta["rows"])
    elif meta.get("view") == "attention":  # square cells
        wide = high = 480
    return (
        round(layout.get("width") or max(wide, least[0])),
        round(layout.get("height") or max(high, least[1])),
    )


def _for_notebook(figure: Figure, theme: Theme) -> Figure:
    """A figure of the page with a size and a background of its own."""
    wide, high = size_of(figure)
    figure = with_texts(figure, theme)
    layout = {
        **figure["layout"], "width": wide, "height": high, "autosize": False,
        "paper_bgcolor": palette(theme).surface,
    }  # fmt: skip
    return {"data": figure["data"], "layout": layout}


def table_figure(frame: Frame, theme: Theme) -> Figure:
    """The first rows of a table as a plotly table."""
    colours = palette(theme)
    names, rows = list(frame.columns), frame.rows[:ROWS]
    texts = [[_cell(row[at]) for row in rows] for at in range(len(names))]
    left = f" The first {len(rows)} of {len(frame.rows):,} rows." * (len(rows) < len(frame.rows))
    font = {"family": SANS, "size": 12, "color": colours.ink}
    shared = {"align": "left", "line": {"color": colours.rule}, "font": font}
    return {
        "data": [{
            "type": "table",
            "header": {"values": [f"<b>{name}</b>" for name in names],
                       "fill": {"color": colours.sunken}, **shared},
            "cells": {"values": texts, "fill": {"color": colours.surface}, **shared},
        }],
        "layout": {
            "font": font, "margin": {"l": 8, "r": 8, "t": 36, "b": 8},
            "title": {"text": f"{frame.name}.{left}", "font": {"size": 13}, "x": 0.01},
            "paper_bgcolor": colours.surface, "height": min(90 + 22 * len(rows), 700),
            "width": max(WIDE, 92 * len(names)),
        },
    }  # fmt: skip


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.4g}"
    return "" if value is None else markup(str(value))


def _table(result: Result, tokens: Sequence[Token], *, theme: Theme, table: str = "") -> Figure:
    names = [sheet.name for sheet in sheets_of(result)]
    if table and table not in names:
        raise SpecError(f"There is no table {table!r}.", f"Choose one of: {', '.join(names)}.")
    found = frames(result, tokens)
    return table_figure(found[names.index(table) if table else 0], theme)


def _drawings(result: Result) -> Mapping[str, Callable[..., Any]]:
    return PICTURES.get(type(result)) or {"table": _table}
