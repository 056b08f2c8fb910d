"""The menus of the heatmap, in groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from dash import html
from dash.development.base_component import Component

from analysis.contract.results import Token
from analysis.lens.options import (
    CANDIDATES,
    COLOURS,
    COMPONENTS,
    DECODERS,
    NORMS,
    SHARE_METHODS,
    SIMILARITIES,
)
from analysis.tracing.specs import RunResult
from dash_app.page.controls import Option, aria, menu, options_of, select_button, target
from dash_app.page.token_labels import label
from dash_app.page.window import PAGE, pages
from dash_app.state.options import PARTS
from dash_app.state.selection import RunRef, Selection
from dash_app.views.heatmap.specs import asked_token, situation

#: Most source positions in the menu.
MOST_SOURCES = 256
FOLDS = ((1, "All"), (2, "Every 2nd"), (4, "Every 4th"), (8, "Every 8th"))
SEARCHED = "All positions are searched for the text. Clear the search to choose positions."


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
        menu("decoder", "Decoder", options_of(DECODERS, here), selection.decoder),
    ]
    measure = [
        menu("norm", "Norm", options_of(NORMS, here), selection.norm),
        menu("similarity", "Similarity", options_of(SIMILARITIES, here), selection.similarity),
        menu("candidates", "Candidates", options_of(CANDIDATES, here), selection.candidates),
    ]
    colour = menu("colour", "Colour", options_of(COLOURS, here), selection.colour)
    return [
        _group("Read", read),
        _group("Measure", measure),
        _group("Colour by", [colour, *_colour(selection, run, result, names or {})]),
        _group("Show", _window(selection, result)),
    ]


def _group(name: str, menus: Sequence[Component]) -> Component:
    return html.Div(
        [html.Span(name, className="menu-group-name"), *menus],
        className="menu-group",
        role="group",
        **aria(label=name),
    )


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
        parts.append(menu("source", "Source", sources, chosen, short=True))
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
        parts.append(menu("asked", "of", tokens, chosen, short=True))
    if selection.colour == "share":
        parts.append(menu("part", "of", options_of(PARTS), selection.part))
        parts.append(menu("by", "by", options_of(SHARE_METHODS), selection.by))
    return parts


def _window(selection: Selection, result: RunResult | None) -> list[Component]:
    folds = [Option(str(number), title) for number, title in FOLDS]
    if str(selection.fold) not in {option.value for option in folds}:
        folds.append(Option(str(selection.fold), f"Every {selection.fold}th"))
    parts = [menu("fold", "Rows", folds, str(selection.fold), short=True)]
    spans = positions(result)
    if selection.find:
        spans = [replace(option, unless=SEARCHED) for option in spans]
    elif selection.show and selection.show not in {option.value for option in spans}:
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
    if size <= PAGE or selection.show in ("all", "answer") or selection.find:
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
