"""From the selection to the specs of the heatmap."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from analysis.contract.choices import Choices, Situation
from analysis.contract.results import ModelInfo
from analysis.lens.options import CANDIDATES, COLOURS, COMPONENTS, DECODERS
from analysis.lens.results import Colours, Grid
from analysis.lens.specs import ColourSpec, LensSpec
from analysis.tracing.specs import RunResult
from dash_app.figures.colours import SCORE, effective, of_grid
from dash_app.figures.heatmap import layered
from dash_app.page.window import Window, window
from dash_app.state.context import Service, trace_of
from dash_app.state.selection import RunRef, Selection, resolve

#: Options that fall back to their default if the model or another option rules the choice out.
WITH_FALLBACK: dict[str, Choices[Any]] = {
    "component": COMPONENTS, "decoder": DECODERS, "candidates": CANDIDATES
}  # fmt: skip
#: Up to this many positions are decoded together; otherwise the chosen one is decoded first.
AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class HeatmapSpec:
    """What one heatmap is computed from.

    Attributes:
        lens: The grid.
        colours: Colours that the grid does not contain; None if it does.
    """

    lens: LensSpec
    colours: ColourSpec | None

    def at(self, positions: tuple[int, ...] | None) -> HeatmapSpec:
        """The same for some positions only; None: for all."""
        lens = replace(self.lens, positions=positions)
        if self.colours is None:
            return HeatmapSpec(lens, None)
        inner = replace(self.colours.lens, positions=positions)
        return HeatmapSpec(lens, replace(self.colours, lens=inner))


@dataclass(frozen=True, slots=True)
class HeatmapData:
    """The computed part of a heatmap; grid and colours may have different positions."""

    grid: Grid | None
    colours: Colours | None


def asked_token(run: RunRef, result: RunResult, selection: Selection) -> int:
    """The token whose probability or rank is the colour: the chosen one, or the answer's first."""
    if selection.asked is not None and selection.asked < run.vocab:
        return selection.asked
    if run.prompt_length < len(run.token_ids):
        return run.token_ids[run.prompt_length]
    return int(result.top_ids[run.prompt_length - 1, 0])


def lens_spec(run: RunRef, result: RunResult, selection: Selection) -> LensSpec:
    """The spec of the selected grid on this run."""
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
    """The model and the options that decide which choices are available."""
    options = {"component": selection.component, "similarity": selection.similarity}
    return Situation(info, learned, options)


def replace_unavailable(
    selection: Selection, result: RunResult, learned: bool
) -> tuple[Selection, list[str]]:
    """Replace choices that this model rules out, and indices that it does not have.

    Returns:
        The selection that is shown, and one note for each choice that was replaced.
    """
    notes = []
    for name, table in WITH_FALLBACK.items():
        chosen = table[getattr(selection, name)]
        reason = chosen.unavailable(situation(selection, result.info, learned))
        if reason:
            selection = selection.model_copy(update={name: table.default})
            shown = table[table.default].label
            notes.append(f"{chosen.label} is not available. {reason} Shown: {shown}.")
    last = len(result.tokens) - 1
    change = {
        "head": min(selection.head, result.info.heads - 1),
        "source": None if selection.source is None else min(selection.source, last),
    }
    return selection.model_copy(update=change), notes


def heatmap_spec(run: RunRef, result: RunResult, selection: Selection) -> HeatmapSpec:
    """The selected grid and colours, at every position."""
    lens = lens_spec(run, result, selection)
    colour = effective(selection.colour, selection.similarity)
    if of_grid(colour):
        return HeatmapSpec(lens, None)
    if colour == "share":
        return HeatmapSpec(lens, ColourSpec(LensSpec(), (selection.by,)))
    if COLOURS[colour].of_state:
        plain = LensSpec(component=lens.component, head=lens.head, source=lens.source)
        return HeatmapSpec(lens, ColourSpec(plain, (colour,)))
    return HeatmapSpec(lens, ColourSpec(lens, (colour,)))


def visible_window(run: RunRef, result: RunResult, selection: Selection) -> Window:
    """The rows and positions that are drawn."""
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


def stages(spec: HeatmapSpec, drawn: Window, pos: int) -> list[HeatmapSpec]:
    """The specs to compute, in order: the chosen column, then all drawn columns."""
    whole = spec.at(None if drawn.whole else drawn.positions)
    if len(drawn.positions) <= AT_ONCE or pos not in drawn.positions:
        return [whole]
    return [spec.at((pos,)), whole]


def memoised(
    service: Service, run: RunRef, spec: HeatmapSpec, drawn: Window, pos: int
) -> HeatmapData:
    """What the memo has: all columns, else the drawn ones, else the chosen one."""
    trace = trace_of(run)
    parts = [spec.at(None), *reversed(stages(spec, drawn, pos))]
    grids = (service.peek(trace, part.lens) for part in parts)
    grid = next((one for one in grids if one is not None), None)
    colour_specs = (part.colours for part in parts if part.colours is not None)
    colours = (service.peek(trace, one) for one in colour_specs)
    return HeatmapData(grid, next((one for one in colours if one is not None), None))


def computed(
    service: Service, run: RunRef, spec: HeatmapSpec, drawn: Window, data: HeatmapData
) -> HeatmapData:
    """The data after the job; requested again if the memo could not store it."""
    whole, trace = stages(spec, drawn, -1)[-1], trace_of(run)
    grid, colours = data.grid, data.colours
    if not _covers(grid, drawn):
        grid = service.ask(trace, whole.lens)
    if whole.colours is not None and not _covers(colours, drawn):
        colours = service.ask(trace, whole.colours)
    return HeatmapData(grid, colours)


def _covers(found: Grid | Colours | None, drawn: Window) -> bool:
    return found is not None and set(drawn.positions) <= set(found.positions.tolist())
