"""From a run to its heatmap: what there is of it at once, the rest by a job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import unescape
from typing import Any

import numpy as np
from dash import no_update
from numpy.typing import NDArray

from analysis.contract.results import Token
from analysis.learned import library
from analysis.lens.options import COLOURS
from analysis.lens.results import Grid
from analysis.tracing.specs import RunResult
from dash_app.figures.cells import layered
from dash_app.figures.colours import Paint, effective, paint
from dash_app.figures.heatmap import heatmap
from dash_app.jobs.progress import attempt, trouble_in
from dash_app.page.logit_tokens import names
from dash_app.page.panel import failed, told, trouble
from dash_app.page.window import Window, laid, nothing, places
from dash_app.state.context import NewJob, Service, result_of, trace_of
from dash_app.state.selection import RunRef, Selection, pinned, resolve
from dash_app.state.stores import PARTS
from dash_app.views.heatmap import specs
from dash_app.views.heatmap.controls import bar
from dash_app.views.heatmap.inspector import inspector, unread
from dash_app.views.heatmap.specs import Found, Wanted, settled, shown, wanted
from dash_app.views.heatmap.state_line import line

#: Figure, controls, line, inspector, what is drawn, what is still to be computed.
Shown = tuple[Any, Any, Any, Any, Any, Any]


@dataclass(frozen=True, slots=True)
class Scene:
    """A selection on a run, worked out."""

    run: RunRef
    result: RunResult
    selection: Selection
    window: Window
    want: Wanted
    row: int
    pos: int
    learned: bool
    replaced: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Names what is drawn: the same key, the same picture."""
        colour = (self.selection.colour, self.selection.part, self.selection.by)
        attempt = self.run.attempt
        return repr((attempt, self.run.token_ids, self.want, self.window, colour))

    def controls_key(self, names: Mapping[int, Token]) -> list[Any]:
        """Names what the controls show: drawn anew, an open menu would close."""
        chosen = self.selection.model_dump(include={*PARTS["lens"], *PARTS["colour"]})
        shown_part = [self.selection.show, self.selection.find, self.selection.fold]
        return [self.run.attempt, chosen, shown_part, list(names), self.learned]


def scene(service: Service, run: RunRef, selection: Selection) -> Scene:
    """Work a selection out on a run."""
    result = result_of(service, run)
    learned = library.available(run.model) is not None
    selection, notes = settled(selection, result, learned)
    chosen = resolve(selection, run)
    window = shown(run, result, selection)
    want, row, pos = wanted(run, result, selection), chosen.row, chosen.pos
    return Scene(run, result, selection, window, want, row, pos, learned, tuple(notes))


def compute(
    service: Service, run: RunRef, selection: Selection, job: NewJob, ready: Any
) -> dict[str, Any] | None:
    """Compute what the picture lacks, the chosen column first; how that ended.

    Args:
        service: Computes.
        run: The run shown.
        selection: What is selected.
        job: Makes jobs.
        ready: Called with ``{"part": ...}`` when the chosen column is there.

    Returns:
        ``{"done": key}`` or ``{"trouble": ...}``; None if it was cancelled.
    """

    def work() -> str:
        here = scene(service, run, selection)
        stages = specs.stages(here.want, here.window, here.pos)
        for number, stage in enumerate(stages):
            last = number == len(stages) - 1
            start, end = (0.1, 1.0) if len(stages) > 1 and last else (0.0, 0.1)
            _stage(service, run, stage, job, start, end)
            if not last:
                ready({"part": here.key})
        return here.key

    return attempt(work)


def _stage(
    service: Service, run: RunRef, want: Wanted, job: NewJob, start: float, end: float
) -> None:
    trace, middle = trace_of(run), (start + end) / 2 if want.extra else end
    service.ask(trace, want.lens, job(start, middle))
    if want.extra is not None:
        service.ask(trace, want.extra, job(middle, end))


def show(
    service: Service,
    run: RunRef,
    selection: Selection,
    theme: Any,
    drawn: Any = None,
    ready: dict[str, Any] | None = None,
) -> Shown:
    """Everything of the panel; what is on the page already is left as it is."""
    try:
        here = scene(service, run, selection)
        names = _names(service, here)
        before, after = drawn or {}, {"controls": here.controls_key(names)}
        controls: Any = no_update
        if before.get("controls") != after["controls"]:
            controls = bar(here.selection, here.run, here.result, here.learned, names)
        wrong, found = trouble_in(ready), _found(service, run, here, ready)
        if wrong and found.grid is None:
            return told(wrong, 400), controls, "", no_update, after, None
        grid = found.grid or nothing(here.result, here.want.lens, layered(here.want.lens.component))
        known = _known(here, found)
        after["figure"] = [here.key, theme, int(known.sum())]
        same = before.get("figure") == after["figure"]
        figure = no_update if same else _figure(here, grid, found, known, theme)
        missing = None if known.all() else here.key
        notes = (*here.replaced, *_stand_ins(here, found))
        said = line(here.selection, here.window, grid, known, here.pos, notes)
        said = [trouble(wrong), *said] if wrong else said  # what was finished stays
        return figure, controls, said, _inspector(here, grid, found), after, missing
    except Exception as error:  # noqa: BLE001 - said where the figure would be
        return failed(error, 400), no_update, "", no_update, None, None


def _found(service: Service, run: RunRef, here: Scene, ready: dict[str, Any] | None) -> Found:
    """What there is of the numbers: what the memo has, and what a job has just ended with."""
    found = specs.found(service, run, here.want, here.window, here.pos)
    if ready is not None and ready.get("done") == here.key:
        return specs.computed(service, run, here.want, here.window, found)
    return found


def _stand_ins(here: Scene, found: Found) -> list[str]:
    """How many of the computed shares by proximity are shares by norm."""
    selection = here.selection
    if found.extra is None or (selection.colour, selection.by) != ("share", "proximity"):
        return []
    count = int(found.extra.fallback.sum())
    cells = f"{count:,} of {found.extra.fallback.size:,} block outputs"
    return [f"In {cells} every part has proximity 0: the share is by norm."] if count else []


def _known(here: Scene, found: Found) -> NDArray[np.bool_]:
    """[pos] which of the drawn columns are computed, colours and all."""
    shown_positions = here.window.positions
    none = np.zeros(len(shown_positions), bool)
    if found.grid is None:
        return none
    known: NDArray[np.bool_] = places(found.grid.positions, shown_positions) >= 0
    if here.want.extra is None:
        return known
    return (
        none
        if found.extra is None
        else known & (places(found.extra.positions, shown_positions) >= 0)
    )


def _figure(here: Scene, grid: Grid, found: Found, known: NDArray[np.bool_], theme: Any) -> Any:
    cells = laid(grid, here.window)
    return heatmap(
        cells,
        here.result,
        _paint(here, cells, found),
        here.window,
        row=here.row,
        pos=here.pos,
        theme=theme,
        known=known,
    )


def _paint(here: Scene, cells: Grid, found: Found) -> Paint:
    selection = here.selection
    asked = specs.asked_token(here.run, here.result, selection)
    known = {token.id: token for token in (*cells.vocabulary, *here.result.tokens)}
    return paint(
        effective(selection.colour, selection.similarity),
        cells,
        found.extra,
        here.window,
        part=selection.part,
        by=selection.by,
        asked=known.get(asked),
    )


def _names(service: Service, here: Scene) -> dict[int, Token]:
    """Tokens that colours can ask about, by id: of the run, what is pinned, what is asked."""
    result, run, selection = here.result, here.run, here.selection
    if not COLOURS[selection.colour].of_token:
        return {}
    own = result.top_ids[here.pos, :3].tolist()
    ids = [specs.asked_token(run, result, selection), *pinned(selection, run, own), *own]
    ids = [number for number in dict.fromkeys(ids) if number < run.vocab]
    known = names(service, run, ids)
    return {number: known[number] for number in ids}


def _inspector(here: Scene, grid: Grid, found: Found) -> Any:
    """The chosen cell in words, as far as it is read."""
    row = here.row - (1 if layered(grid.component) else 0)
    if row < 0 or here.pos not in grid.positions:
        return unread(here.selection, here.result, here.row, here.pos)
    own = here.result.top_ids[here.pos, :2].tolist()
    pins = pinned(here.selection, here.run, own)
    column = int(np.flatnonzero(grid.positions == here.pos)[0])
    return inspector(grid, here.result, row, column, pins, _coloured(here, grid, found))


def _coloured(here: Scene, grid: Grid, found: Found) -> str:
    """What the chosen cell's colour stands for, where nothing else in the inspector says it."""
    rows, positions = here.window.rows, here.window.positions
    if here.row not in rows or here.pos not in positions:
        return ""
    colours = _paint(here, laid(grid, here.window), found)
    value = float(colours.values[rows.index(here.row), positions.index(here.pos)])
    if colours.words is None or np.isnan(value):
        return ""
    return unescape(colours.words(value))  # words are made safe for plotly
