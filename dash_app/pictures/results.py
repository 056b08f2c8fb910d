"""The picture of a result, as the page draws it: what ``Result.plot`` returns.

Most pictures are plotly figures, made by the functions that draw the page. The flow is an SVG. A
result that the page lists in words or tables is drawn as its main table.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.contract.sheets import Frame
from analysis.contract.specs import Result, Token
from analysis.errors import SpecError
from analysis.export.sheets import frames, sheets_of
from dash_app.figures.colours import cell_texts
from dash_app.figures.heatmap import MARGIN, READABLE, column_width
from dash_app.page.panel import seen
from dash_app.page.panes import Pane
from dash_app.page.theme import MONO, SANS, Figure, Theme, palette
from dash_app.page.token_labels import markup
from dash_app.pictures.figures import PICTURES
from dash_app.pictures.flow_svg import FlowPicture, Shown
from dash_app.state.context import Context, Drawing, View
from dash_app.state.drawings import PageState, call
from dash_app.state.selection import RunRef, Selection
from dash_app.views.flow.picture import Picture

#: Width and height of a figure that has no size of its own, in pixels; height of a heatmap's row.
WIDE, HIGH, ROW = 760, 440, 19
#: Rows of a table in a picture.
ROWS = 40


Part = Figure | Picture | Frame


@dataclass(frozen=True, slots=True)
class Drawn:
    """A view as pictures.

    Attributes:
        title: What it answers.
        caption: What is shown, in words.
        parts: Plotly figures, pictures of the flow, and tables, from top to bottom.
        dark: The same for a dark page; empty if there is none.
        recipe: How the numbers were computed, as JSON values.
    """

    title: str
    caption: str
    parts: tuple[Part, ...]
    recipe: Mapping[str, Any]
    dark: tuple[Part, ...] = ()


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
    least = meta.get("named") or meta.get("least") or (0, 0)
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


# Panes of the page.


def drawn(
    context: Context,
    views: Sequence[View],
    pane: str,
    taken: Any,
    shown: tuple[Any, RunRef | None, Selection],
    *,
    dark: bool,
) -> Drawn:
    """The pictures of a pane; its tables if it has no picture.

    Args:
        context: Makes the panes.
        views: All views.
        pane: A pane, or a tab of the inspector.
        taken: Its numbers and their recipe (``dash_app.export.Taken``).
        shown: The service or the memo, the run, and the selection.
        dark: Whether to draw for a dark page too.
    """
    reader, run, selection = shown
    selection = selection.model_copy(update={"panes": (*selection.panes, pane)})
    names = {view.exports[pane].drawing for view in views if pane in view.exports}
    drawings = [one for view in views for one in view.drawings if one.name in names]
    named = _pane(context, views, pane)

    def values(scheme: str) -> list[Any]:
        page = PageState(run, selection, scheme=scheme)
        found = [call(one, reader, page) for one in drawings]
        return [getattr(one, "values", one) for one in found]

    light = values("light")
    made, others = list(figures_in(light)), list(figures_in(values("dark"))) if dark else []
    if not made:  # the pane lists its numbers in tables
        made, others = [*taken.tables], []
    title = named.title if named else pane.capitalize()
    caption = _caption(drawings, light, named.caption_id if named else "")
    return Drawn(title, caption, tuple(made), taken.recipe.as_json(), tuple(others))


def of_results(
    found: Sequence[Any], tokens: Sequence[Token], recipe: Mapping[str, Any], *, dark: bool
) -> Drawn:
    """The main picture of each result; the tables of a result that has none.

    Args:
        found: Results.
        tokens: [pos] of their run.
        recipe: How they were computed, as JSON values.
        dark: Whether to draw for a dark page too.
    """

    def parts(theme: Theme) -> Iterator[Any]:
        for one in found:
            if type(one) in PICTURES:
                made = figure(one, tokens, theme=theme)
                yield made.picture if isinstance(made, FlowPicture) else made
            else:
                yield from frames(one, tokens)

    names = ", ".join(type(one).__name__ for one in found)
    others = tuple(parts("dark")) if dark else ()
    return Drawn(names, "", tuple(parts("light")), recipe, others)


def _pane(context: Context, views: Sequence[View], name: str) -> Pane | None:
    parts = [
        part for view in views if name in view.exports for part in view.layout(context).values()
    ]
    return next((one for one in parts if isinstance(one, Pane) and one.name == name), None)


def _caption(drawings: Sequence[Drawing], values: Sequence[Any], wanted: str) -> str:
    """The text of the pane's caption, among what its drawings return."""
    for drawing, value in zip(drawings, values, strict=True):
        several = [value] if len(drawing.outputs) == 1 else list(value)
        for output, one in zip(drawing.outputs, several, strict=False):
            if wanted and output.component_id == wanted:
                return seen(one)
    return ""


def figures_in(value: Any) -> Iterator[Any]:
    """The figures and flow pictures in what a drawing returns, in the order of the page."""
    if isinstance(value, Mapping):
        if value.get("view") == "flow" or (value.get("data") and "layout" in value):
            yield value
        return
    if isinstance(value, list | tuple):
        for part in value:
            yield from figures_in(part)
    elif hasattr(value, "_prop_names"):
        figure = getattr(value, "figure", None)
        yield from figures_in(figure if figure is not None else getattr(value, "children", None))
