"""From what is selected to what is computed for the heatmap."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from analysis.contract.choices import Choices, Situation
from analysis.contract.results import ModelInfo
from analysis.lens.options import CANDIDATES, COLOURS, COMPONENTS, DECODERS
from analysis.lens.results import Colours, Grid
from analysis.lens.specs import ColourSpec, LensSpec
from analysis.tracing.specs import RunResult
from dash_app.figures.cells import layered
from dash_app.figures.colours import SCORE, effective, of_grid
from dash_app.page.window import Window, window
from dash_app.state.context import Service, trace_of
from dash_app.state.selection import RunRef, Selection, resolve

#: Options that fall back on their default where a model or another option rules the choice out.
SETTLED: dict[str, Choices[Any]] = {
    "component": COMPONENTS, "decoder": DECODERS, "candidates": CANDIDATES
}  # fmt: skip
#: So few positions are read at once; of more, the chosen one first.
AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one picture is made of.

    Attributes:
        lens: The grid.
        extra: Colours that it has not itself; None where it has.
    """

    lens: LensSpec
    extra: ColourSpec | None

    def at(self, positions: tuple[int, ...] | None) -> Wanted:
        """The same of some positions only; None: of all."""
        lens = replace(self.lens, positions=positions)
        if self.extra is None:
            return Wanted(lens, None)
        inner = replace(self.extra.lens, positions=positions)
        return Wanted(lens, replace(self.extra, lens=inner))


@dataclass(frozen=True, slots=True)
class Found:
    """As much of it as there is: the grid and colours, each of its own positions."""

    grid: Grid | None
    extra: Colours | None


def asked_token(run: RunRef, result: RunResult, selection: Selection) -> int:
    """The token that colours ask about: the one chosen, else the answer's first."""
    if selection.asked is not None and selection.asked < run.vocab:
        return selection.asked
    if run.prompt_length < len(run.token_ids):
        return run.token_ids[run.prompt_length]
    return int(result.top_ids[run.prompt_length - 1, 0])


def lens_spec(run: RunRef, result: RunResult, selection: Selection) -> LensSpec:
    """The reading that is selected, on this run."""
    component = COMPONENTS[selection.component]
    coloured = effective(selection.colour, selection.similarity)
    of_token = coloured != SCORE and COLOURS[coloured].of_token
    target = (asked_token(run, result, selection),) if of_token else ()
    return LensSpec(
        component=selection.component,
        decoder=selection.decoder,
        norm=selection.norm,
        similarity=selection.similarity,
        candidates=selection.candidates,
        target=target,
        head=selection.head if component.head else None,
        source=selection.source or 0 if component.source_position else None,
    )


def situation(selection: Selection, info: ModelInfo | None, learned: bool) -> Situation:
    """What decides which choices are available."""
    options = {"component": selection.component, "similarity": selection.similarity}
    return Situation(info, learned, options)


def settled(selection: Selection, result: RunResult, learned: bool) -> tuple[Selection, list[str]]:
    """Replace choices that are off on this model, and indices that it does not have.

    Returns:
        The selection that is shown, and one note for each choice that was replaced.
    """
    notes = []
    for name, table in SETTLED.items():
        chosen = table[getattr(selection, name)]
        reason = chosen.unavailable(situation(selection, result.info, learned))
        if reason:
            selection = selection.model_copy(update={name: table.default})
            notes.append(f"{chosen.label} is off. {reason} Shown: {table[table.default].label}.")
    last = len(result.tokens) - 1
    change = {
        "head": min(selection.head, result.info.heads - 1),
        "source": None if selection.source is None else min(selection.source, last),
    }
    return selection.model_copy(update=change), notes


def wanted(run: RunRef, result: RunResult, selection: Selection) -> Wanted:
    """Grid and colours that are selected, of every position."""
    lens = lens_spec(run, result, selection)
    colour = effective(selection.colour, selection.similarity)
    if of_grid(colour):
        return Wanted(lens, None)
    if colour == "share":
        return Wanted(lens, ColourSpec(LensSpec(), (selection.by,)))
    if COLOURS[colour].of_state:
        plain = LensSpec(component=lens.component, head=lens.head, source=lens.source)
        return Wanted(lens, ColourSpec(plain, (colour,)))
    return Wanted(lens, ColourSpec(lens, (colour,)))


def shown(run: RunRef, result: RunResult, selection: Selection) -> Window:
    """Which rows and positions are drawn."""
    chosen = resolve(selection, run)
    return window(
        result,
        layered(selection.component),
        row=chosen.row,
        pos=chosen.pos,
        show=selection.show,
        find=selection.find,
        fold=selection.fold,
    )


def stages(want: Wanted, drawn: Window, pos: int) -> list[Wanted]:
    """What is computed, in order: the chosen column, then all that is drawn."""
    whole = want.at(None if drawn.whole else drawn.positions)
    if len(drawn.positions) <= AT_ONCE or pos not in drawn.positions:
        return [whole]
    return [want.at((pos,)), whole]


def found(service: Service, run: RunRef, want: Wanted, drawn: Window, pos: int) -> Found:
    """The most of it that the memo has: everything, else what is drawn, else the chosen column."""
    trace = trace_of(run)
    parts = [want.at(None), *reversed(stages(want, drawn, pos))]
    grids = (service.peek(trace, part.lens) for part in parts)
    grid = next((one for one in grids if one is not None), None)
    if want.extra is None:
        return Found(grid, None)
    specs = (part.extra for part in parts)
    extras = (service.peek(trace, spec) for spec in specs if spec is not None)
    return Found(grid, next((one for one in extras if one is not None), None))


def computed(service: Service, run: RunRef, want: Wanted, drawn: Window, found: Found) -> Found:
    """The same after the job: asked for again where the memo could not keep it."""
    whole, trace = stages(want, drawn, -1)[-1], trace_of(run)
    grid, extra = found.grid, found.extra
    if grid is None or not set(drawn.positions) <= set(grid.positions.tolist()):
        grid = service.ask(trace, whole.lens)
    if whole.extra is not None and (
        extra is None or not set(drawn.positions) <= set(extra.positions.tolist())
    ):
        extra = service.ask(trace, whole.extra)
    return Found(grid, extra)
