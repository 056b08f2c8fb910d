"""Computes the heatmap of a run, and decides what the panel shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from html import unescape
from typing import Any

import numpy as np
from dash import no_update
from dash.development.base_component import Component
from numpy.typing import NDArray

from analysis.contract.specs import Token
from analysis.learned import library
from analysis.lens.options import COLOURS, COMPONENTS, DECODERS, NORMS, SIMILARITIES
from analysis.lens.results import Grid
from analysis.tracing.specs import RunResult
from dash_app.figures.colours import CellColours, cell_colours, difference, effective
from dash_app.figures.heatmap import heatmap, layered
from dash_app.jobs.job_and_draw import run_safely, stored_problem
from dash_app.page.panel import error_figure, problem_figure, problem_notice
from dash_app.page.thin_layout import html
from dash_app.page.token_labels import tokens_by_id
from dash_app.page.window import PAGE, Window, describe_window, empty_grid, indices_of, laid_out
from dash_app.state.context import NewJob, Service, Shown, result_of, trace_of
from dash_app.state.selection import RunRef, Selection, pinned, resolve
from dash_app.views.heatmap import inspector, options
from dash_app.views.heatmap.inspector import inspect_cell, undecoded
from dash_app.views.heatmap.inspector import spec as promoted
from dash_app.views.heatmap.options import HeatmapData, HeatmapSpec, bar


@dataclass(frozen=True, slots=True)
class Picture:
    """What the selection asks for on a run.

    Attributes:
        run, result: The run.
        selection: The selection without choices that the model rules out.
        window: The rows and positions to draw.
        spec: What is computed.
        row, pos: The chosen cell.
        learned: Whether the model has a learned lens.
        notes: Why choices were replaced, and what the edits of the run reach.
        version: Which run is shown, in a sentence, if it is not the run itself.
    """

    run: RunRef
    result: RunResult
    selection: Selection
    window: Window
    spec: HeatmapSpec
    row: int
    pos: int
    learned: bool
    notes: tuple[str, ...] = ()
    version: tuple[str, ...] = ()

    @property
    def is_difference(self) -> bool:
        """Whether the run without edits is subtracted."""
        return bool(self.run.edits) and self.selection.version == "difference"

    @property
    def key(self) -> str:
        """Names the picture: equal keys, equal pictures."""
        one, run = self.selection, self.run
        colour = (one.colour, one.part, one.by, one.version)
        return repr((run.token_ids, run.edits, self.spec, self.window, colour))


@dataclass(frozen=True, slots=True)
class Hits:
    """Where the heatmap has the text of the search, in upper or lower case.

    Attributes:
        text: The text; empty without a search.
        columns: Positions of the run whose token contains it, drawn or not.
        cells: [row, position] of drawn cells whose best token contains it.
    """

    text: str = ""
    columns: tuple[int, ...] = ()
    cells: tuple[tuple[int, int], ...] = ()

    @property
    def in_browser(self) -> dict[str, Any]:
        """What ``heatmap_find.js`` marks."""
        return {"text": self.text, "columns": self.columns, "cells": self.cells}

    @property
    def said(self) -> tuple[str, ...]:
        """A sentence for the caption."""
        if not self.text:
            return ()
        found = {"token": len(self.columns), "cell": len(self.cells)}
        counts = [f"{count} {name}{'' if count == 1 else 's'}" for name, count in found.items()]
        return (f"'{self.text}' is in {' and '.join(counts)}.",)


def picture_of(service: Service, run: RunRef, selection: Selection) -> Picture:
    """Resolve a selection on a run, with its edits."""
    whole, (run, selection) = (
        run,
        inspector.version_of(run, selection) if run.edits else (run, selection),
    )
    result = result_of(service, run)
    learned = library.available(run.model) is not None
    selection, notes = options.replace_unavailable(selection, result, learned)
    chosen = resolve(selection, run)
    window = options.visible_window(run, result, selection)
    spec = options.heatmap_spec(run, result, selection)
    asked = options.asked_token(run, result, selection)
    first = inspector.version_note(whole, selection, result, asked)
    notes += inspector.notes(whole, selection, window)
    return Picture(
        run, result, selection, window, spec, chosen.row, chosen.pos, learned, tuple(notes), first
    )


def specs(service: Service, run: RunRef, selection: Selection) -> list[Any]:
    """The requests of the grid that is drawn, and of its colours."""
    picture = picture_of(service, run, selection)
    whole = options.stages(picture.spec, picture.window, -1)[-1]
    return [whole.lens, *([whole.colours] if whole.colours is not None else [])]


def cell(service: Service, run: RunRef, selection: Selection) -> list[Any]:
    """The request of the chosen cell alone; none where the component has no such row."""
    picture = picture_of(service, run, selection)
    lens = picture.spec.lens
    row = picture.row - (1 if layered(lens.component) else 0)
    return [] if row < 0 else [replace(lens, rows=(row,), positions=(picture.pos,))]


def written(_service: Service, run: RunRef, selection: Selection) -> list[Any]:
    """The request of what the chosen component writes at the chosen cell."""
    asked = promoted(run, selection)
    return [] if asked is None else [asked]


def compute(
    service: Service,
    run: RunRef,
    selection: Selection,
    job: NewJob,
    *,
    hand_over: Callable[[dict[str, Any]], None],
) -> dict[str, Any] | None:
    """Compute what the picture lacks, the chosen column first.

    Args:
        service: Computes.
        run: The run shown.
        selection: What is selected.
        job: Makes requests.
        hand_over: Called with ``{"part": ...}`` when the chosen column is computed.

    Returns:
        ``{"done": key}`` or ``{"problem": ...}``; None if it was cancelled.
    """

    def work() -> str:
        picture = picture_of(service, run, selection)
        stages = options.stages(picture.spec, picture.window, picture.pos)
        for number, stage in enumerate(stages):
            last = number == len(stages) - 1
            start, end = (0.1, 1.0) if len(stages) > 1 and last else (0.0, 0.1)
            _compute_stage(service, picture, stage, job, start, end)
            if not last:
                hand_over({"part": picture.key})
        return picture.key

    return run_safely(work)


def _compute_stage(
    service: Service, picture: Picture, spec: HeatmapSpec, job: NewJob, start: float, end: float
) -> None:
    trace, middle = trace_of(picture.run), (start + end) / 2 if spec.colours else end
    service.ask(trace, spec.lens, job(start, middle))
    if picture.is_difference:
        service.ask(trace_of(picture.run.baseline), spec.lens, job(start, middle))
    if spec.colours is not None:
        service.ask(trace, spec.colours, job(middle, end))


def draw(
    service: Service,
    run: RunRef,
    selection: Selection,
    theme: Any,
    ready: dict[str, Any] | None = None,
    note: Any = None,
) -> Shown:
    """The panel, and the room of its figure. ``note`` names the figure that the page has."""
    try:
        picture = picture_of(service, run, selection)
        names = _token_choices(service, picture)
        controls = bar(picture.selection, run, picture.result, picture.learned, names)
        problem, data = stored_problem(ready), _data(service, picture, ready)
        if problem and data.grid is None:
            return Shown((problem_figure(problem, 400), controls, "", no_update, no_update))
        component = picture.spec.lens.component
        grid = data.grid or empty_grid(picture.result, picture.spec.lens, layered(component))
        known = _known(picture, data)
        now = [picture.key, theme, int(known.sum()), selection.find]
        found = hits(picture, grid)
        figure = no_update if note == now else _figure(picture, grid, data, known, theme, found)
        lines = caption(
            picture, grid, known, (*found.said, *picture.notes, *_fallback_note(picture, data))
        )
        if problem:  # what was computed before stays
            lines = [problem_notice(problem), *lines]
        values = figure, controls, lines, _inspector(picture, grid, data), options.room(figure)
        return Shown(values, complete=bool(known.all()), note=now)
    except Exception as error:  # noqa: BLE001 - shown in place of the figure
        return Shown((error_figure(error, 400), no_update, "", no_update, no_update))


def _data(service: Service, picture: Picture, ready: dict[str, Any] | None) -> HeatmapData:
    """The numbers in the memo, and those of a job that has just ended."""
    done = ready is not None and ready.get("done") == picture.key
    place = picture.spec, picture.window, picture.pos
    subtract = picture.is_difference
    return options.known(service, picture.run, *place, done=done, subtract=subtract)


def _fallback_note(picture: Picture, data: HeatmapData) -> list[str]:
    """How many shares by proximity were replaced by shares by norm."""
    selection = picture.selection
    if data.colours is None or (selection.colour, selection.by) != ("share", "proximity"):
        return []
    count = int(data.colours.fallback.sum())
    cells = f"{count:,} of {data.colours.fallback.size:,} block outputs"
    return [f"In {cells} every part has proximity 0, so the share is by norm."] if count else []


def _known(picture: Picture, data: HeatmapData) -> NDArray[np.bool_]:
    """[pos] which of the drawn columns are computed, with their colours."""
    positions = picture.window.positions
    none = np.zeros(len(positions), bool)
    if data.grid is None:
        return none
    known: NDArray[np.bool_] = indices_of(data.grid.positions, positions) >= 0
    if picture.is_difference:
        if data.baseline is None:
            return none
        known &= indices_of(data.baseline.positions, positions) >= 0
    if picture.spec.colours is None:
        return known
    if data.colours is None:
        return none
    return known & (indices_of(data.colours.positions, positions) >= 0)


def _figure(
    picture: Picture,
    grid: Grid,
    data: HeatmapData,
    known: NDArray[np.bool_],
    theme: Any,
    found: Hits,
) -> Any:
    cells = laid_out(grid, picture.window)
    figure = heatmap(
        cells,
        picture.result,
        _colours(picture, cells, data),
        picture.window,
        row=picture.row,
        pos=picture.pos,
        theme=theme,
        known=known,
    )
    figure["layout"]["meta"]["hits"] = found.in_browser
    if picture.run.edits:
        drawn = (inspector.outline, inspector.marks)
        figure["data"] += [draw(picture.run, picture.window, theme) for draw in drawn]
    return figure


def _colours(picture: Picture, cells: Grid, data: HeatmapData) -> CellColours:
    selection = picture.selection
    asked = options.asked_token(picture.run, picture.result, selection)
    known = {token.id: token for token in (*cells.vocabulary, *picture.result.tokens)}
    if data.baseline is not None:
        baseline = laid_out(data.baseline, picture.window)
        return difference(cells, baseline, known.get(asked))
    return cell_colours(
        effective(selection.colour, selection.similarity),
        cells,
        data.colours,
        picture.window,
        part=selection.part,
        by=selection.by,
        asked=known.get(asked),
    )


def hits(picture: Picture, grid: Grid) -> Hits:
    """Search the run's tokens, and the best tokens of the drawn cells."""
    text, window = picture.selection.find.casefold(), picture.window
    if not text:
        return Hits()
    tokens = picture.result.tokens
    columns = tuple(at for at, token in enumerate(tokens) if text in token.text.casefold())
    ids = [token.id for token in grid.vocabulary if text in token.text.casefold()]
    best = laid_out(grid, window).token_ids[..., 0]
    cells = tuple(
        (window.rows[line], window.positions[column])
        for column, line in np.argwhere(np.isin(best, ids).T).tolist()
    )
    return Hits(picture.selection.find, columns, cells)


def _token_choices(service: Service, picture: Picture) -> dict[int, Token]:
    """The tokens to choose from for a colour of one token: best ones, pins, and the chosen one."""
    result, run, selection = picture.result, picture.run, picture.selection
    if not COLOURS[selection.colour].of_token:
        return {}
    best = result.top_ids[picture.pos, :3].tolist()
    ids = [options.asked_token(run, result, selection), *pinned(selection, run, best), *best]
    ids = [number for number in dict.fromkeys(ids) if number < run.vocab]
    known = tokens_by_id(service, run, ids)
    return {number: known[number] for number in ids}


def _inspector(picture: Picture, grid: Grid, data: HeatmapData) -> Any:
    """The chosen cell in words, if it is decoded."""
    row = picture.row - (1 if layered(grid.component) else 0)
    if row < 0 or picture.pos not in grid.positions:
        return undecoded(picture.selection, picture.result, picture.row, picture.pos)
    best = picture.result.top_ids[picture.pos, :2].tolist()
    pins = pinned(picture.selection, picture.run, best)
    column = int(np.flatnonzero(grid.positions == picture.pos)[0])
    colour = _colour_in_words(picture, grid, data)
    return inspect_cell(grid, picture.result, row, column, pins, colour)


def _colour_in_words(picture: Picture, grid: Grid, data: HeatmapData) -> str:
    """The value of the chosen cell's colour, unless the inspector shows it anyway."""
    rows, positions = picture.window.rows, picture.window.positions
    if picture.row not in rows or picture.pos not in positions:
        return ""
    colours = _colours(picture, laid_out(grid, picture.window), data)
    value = float(colours.values[rows.index(picture.row), positions.index(picture.pos)])
    if colours.words is None or np.isnan(value):
        return ""
    return unescape(colours.words(value))  # the words are escaped for plotly


def formula(selection: Selection) -> str:
    """The decoder, norm and similarity as a formula."""
    decoder = DECODERS[selection.decoder]
    normed = NORMS[selection.norm].notation.format(decoder.state)
    score = SIMILARITIES[selection.similarity].notation
    terms = [score.format(matrix, normed) for matrix in decoder.matrices]
    return terms[0] if decoder.single else f"the surer of {' and '.join(terms)}"


def overview(service: Service, run: RunRef, selection: Selection, theme: Any) -> Any:
    """The strip of all positions, if the heatmap does not draw all of them as wide columns."""
    if len(run.token_ids) <= PAGE:
        return None
    from dash_app.views.heatmap import overview as strip  # only long runs need it

    picture = picture_of(service, run, selection)
    return strip.overview(picture.result, picture.window, pos=picture.pos, theme=theme)


def caption(
    picture: Picture, grid: Grid, known: NDArray[np.bool_], notes: tuple[str, ...]
) -> list[Component]:
    """The line above the heatmap: the formula, what is drawn, notes, and what is not computed."""
    selection = picture.selection
    what = COMPONENTS[selection.component].phrase.format(
        head=f"head {selection.head}", source=f"position {selection.source or 0}"
    )
    text = [f"Shown: {describe_window(picture.window)}."]
    if picture.pos not in picture.window.positions:
        text.append(f"The chosen position {picture.pos} is not among them.")
    text += [*notes, *options.option_notes(selection, grid)]
    parts: list[Component] = [
        *map(html.Span, picture.version),
        html.Span([html.Span(formula(selection), className="mono"), f", h is {what}."]),
        html.Span(" ".join(text)),
    ]
    if not known.all():
        count, size = int(known.sum()), len(known)
        partial = f"Computed: {count} of {size} positions. Cells with … are not computed yet."
        parts.append(html.Span(partial, className="lens-partial", role="status"))
    return parts
