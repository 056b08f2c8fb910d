"""The options of the heatmap: its menus, and the specs that a selection gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dash import no_update
from dash.development.base_component import Component

from analysis.contract.choices import Choices, Situation
from analysis.contract.specs import ModelInfo, Token
from analysis.lens.options import (
    CANDIDATES,
    COLOURS,
    COMPONENTS,
    DECODERS,
    NORMS,
    PROBABILITIES,
    SHARE_METHODS,
    SIMILARITIES,
)
from analysis.lens.results import Colours, Grid
from analysis.lens.specs import ColourSpec, LensSpec
from analysis.tracing.specs import RunResult
from dash_app.figures.colours import SCORE, effective, of_grid
from dash_app.figures.heatmap import layered
from dash_app.page.panel import Option, aria, menu, options_of, select_button, target
from dash_app.page.thin_layout import html
from dash_app.page.token_labels import label
from dash_app.page.window import PAGE, Window, opening_position, pages, window
from dash_app.state.context import Service, trace_of
from dash_app.state.options import PARTS
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
    """The computed part of a heatmap; its parts may have different positions.

    Attributes:
        grid: The decoded cells.
        colours: Colours that the grid does not contain.
        baseline: The cells without edits, to subtract.
    """

    grid: Grid | None
    colours: Colours | None
    baseline: Grid | None = None


def asked_token(run: RunRef, result: RunResult, selection: Selection) -> int:
    """The token whose probability or rank is the colour: the chosen one, or the answer's first."""
    if selection.asked is not None and selection.asked < run.vocab:
        return selection.asked
    following = opening_position(result) + 1
    if following < len(run.token_ids):
        return run.token_ids[following]
    return int(result.top_ids[following - 1, 0])


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


def known(
    service: Service, run: RunRef, spec: HeatmapSpec, drawn: Window, pos: int, *, done: bool,
    subtract: bool = False,
) -> HeatmapData:  # fmt: skip
    """The numbers in the memo, and after the job those that the memo could not store.

    ``subtract`` adds the cells of the run without edits.
    """
    data = memoised(service, run, spec, drawn, pos)
    data = computed(service, run, spec, drawn, data) if done else data
    if not subtract:
        return data
    plain = known(service, run.baseline, spec, drawn, pos, done=done)
    return replace(data, baseline=plain.grid)


def _covers(found: Grid | Colours | None, drawn: Window) -> bool:
    return found is not None and set(drawn.positions) <= set(found.positions.tolist())


#: Most source positions in the menu.
MOST_SOURCES = 256
FOLDS = ((1, "All"), (2, "Every 2nd"), (4, "Every 4th"), (8, "Every 8th"))


def bar(
    selection: Selection,
    run: RunRef | None = None,
    result: RunResult | None = None,
    learned: bool = False,
    names: Mapping[int, Token] | None = None,
) -> list[Component]:
    """All menus that have an effect."""
    here = situation(selection, result.info if result else None, learned)
    component = menu("component", "State", options_of(COMPONENTS, here), selection.component)
    read = [
        component,
        *_head(selection, run, result),
    ]
    measure = [
        menu("decoder", "Decoder", options_of(DECODERS, here), selection.decoder),
        menu("norm", "Norm", options_of(NORMS, here), selection.norm),
        menu("similarity", "Similarity", options_of(SIMILARITIES, here), selection.similarity),
        menu("candidates", "Candidates", options_of(CANDIDATES, here), selection.candidates),
    ]
    colour = menu("colour", "Colour", options_of(COLOURS, here), selection.colour)
    given = run is not None and run.edits and selection.version == "difference"
    coloured = [*([] if given else [colour]), *_colour(selection, run, result, names or {})]
    return [
        _group("What", read),
        _group("How", measure),
        _group("Shown", [*coloured, *_window(selection, result)]),
    ]


def _group(name: str, menus: Sequence[Component]) -> Component:
    return html.Section([html.H3(name, className="sheet-group"), *menus], className="mb-3")


def _head(selection: Selection, run: RunRef | None, result: RunResult | None) -> list[Component]:
    component = COMPONENTS[selection.component]
    if not component.head or run is None or result is None:
        return []
    heads = [Option(str(head), str(head)) for head in range(run.heads)]
    parts = [menu("head", "Head", heads, str(selection.head), short=True)]
    if component.source_position:
        sources = [
            Option(str(place), f"{label(token, 14)} ({place})")
            for place, token in enumerate(result.tokens[:MOST_SOURCES])
        ]
        left = len(result.tokens) - MOST_SOURCES
        if left > 0:
            why = f"{left} later positions. Set one in the address: source={MOST_SOURCES}."
            sources.append(Option("", "…", unless=why))
        chosen = str(selection.source or 0)
        parts.append(menu("source", "Source", sources, chosen, short=True, derived=True))
    return parts


def _colour(
    selection: Selection,
    run: RunRef | None,
    result: RunResult | None,
    names: Mapping[int, Token],
) -> list[Component]:
    parts = []
    if COLOURS[selection.colour].of_token and run is not None and result is not None:
        tokens = [Option(str(number), label(token, 16)) for number, token in names.items()]
        chosen = str(asked_token(run, result, selection))
        parts.append(menu("asked", "of", tokens, chosen, short=True, derived=True))
    if selection.colour == "share":
        here = Situation(None if result is None else result.info)
        parts.append(menu("part", "of", options_of(PARTS, here), selection.part))
        parts.append(menu("by", "by", options_of(SHARE_METHODS), selection.by))
    return parts


def _window(selection: Selection, result: RunResult | None) -> list[Component]:
    folds = [Option(str(number), title) for number, title in FOLDS]
    if str(selection.fold) not in {option.value for option in folds}:
        folds.append(Option(str(selection.fold), f"Every {selection.fold}th"))
    parts = [menu("fold", "Rows", folds, str(selection.fold), short=True)]
    spans = positions(result)
    if selection.show and selection.show not in {option.value for option in spans}:
        spans.append(Option(selection.show, selection.show))
    return [*parts, menu("show", "Positions", spans, selection.show), *_pages(selection, result)]


def positions(result: RunResult | None) -> list[Option]:
    """The choices of positions; pages if there are many."""
    size = len(result.tokens) if result else 0
    first = "All" if size <= PAGE else "Page of the chosen one"
    spans = [
        Option("", first, "All positions; of a long run, the page with the chosen position."),
        Option("answer", "Answer", "The states that predict the answer tokens, and the last one."),
    ]
    if size > PAGE:
        spans += [Option(f"{a}-{b}", f"{a} to {b}") for a, b in pages(size)]
        spans.append(Option("all", "All, narrow", "An overview of all positions, without text."))
    return spans


def _pages(selection: Selection, result: RunResult | None) -> list[Component]:
    """Buttons to the pages before and after, if there are several pages."""
    size = len(result.tokens) if result else 0
    if size <= PAGE or selection.show in ("all", "answer"):
        return []
    all_pages = pages(size)
    first = int(selection.show.split("-")[0]) if selection.show else (selection.pos or 0)
    number = min(first // PAGE, len(all_pages) - 1)
    return [
        _step("‹", "Earlier positions", all_pages, number - 1),
        _step("›", "Later positions", all_pages, number + 1),
    ]


def _step(glyph: str, text: str, all_pages: list[tuple[int, int]], number: int) -> Component:
    if not 0 <= number < len(all_pages):
        return html.Button(
            glyph, type="button", className="icon-button", disabled=True, **aria(label=text)
        )
    first, last = all_pages[number]
    return select_button(glyph, target(show=f"{first}-{last}"), "icon-button", label=text)


def option_notes(selection: Selection, grid: Grid) -> list[str]:
    """What the chosen options mean for this grid."""
    notes = []
    if effective(selection.colour, selection.similarity) != selection.colour:
        notes.append(PROBABILITIES.reason)
    if selection.decoder == "max_probability" and grid.chosen.size:
        count = int((grid.chosen == 1).sum())
        notes.append(
            f"i| marks the {count:,} of {grid.chosen.size:,} cells that the input decoder decoded."
        )
    if selection.candidates == "subtraction":
        notes.append(
            "Candidates are listed with their logits. The colour is the probability of the first"
            " one; the state that remains after subtraction has no probabilities."
        )
    if selection.candidates == "matching_pursuit":
        notes.append(
            "Candidates are those of matching pursuit on h, listed with the share of |h|² explained"
            " so far. The colour is the softmax probability of the first one."
        )
    return notes


def room(figure: Any) -> Any:
    """The least size of the element of a figure, as its style; ``no_update`` if it has none.

    The browser has it before it draws the figure, and does not draw it again in another size.
    """
    layout = figure["layout"] if isinstance(figure, dict) else {}
    width, height = layout.get("meta", {}).get("least", (0, 0))
    return {"minWidth": f"{width}px", "minHeight": f"{height}px"} if width else no_update
