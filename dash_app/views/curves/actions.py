"""From pinned tokens to their curves, and from a click to the selection."""

from __future__ import annotations

from typing import Any

from analysis.specs import LensSpec, StorySpec
from dash_app.components.panel import blank, failed
from dash_app.figures.curves import curves
from dash_app.figures.text import label
from dash_app.shell import Service, result_of, trace_of
from dash_app.state import RunRef, Selection, pinned, resolve
from dash_app.theme import palette
from dash_app.views.curves.layout import TAU, emergence_facts, pin_list

#: Figure, pins, subtitle, facts.
Drawn = tuple[Any, Any, str, Any]

NOTHING = "Nothing is pinned. Click a candidate of the chosen cell to see it here."


def clicked(value: Any, current: Selection, _run: RunRef | None) -> Selection:
    """A click on a curve chooses the row."""
    return current.model_copy(update={"row": round(value["points"][0]["x"])})


def draw(service: Service, run: RunRef, selection: Selection, theme: Any) -> Drawn:
    """The curves, the pins, a line that says where we are, and when the choice emerges."""
    try:
        return _drawn(service, run, selection, theme)
    except Exception as error:  # noqa: BLE001 - said where the figure would be
        return failed(error), [], "", []


def _drawn(service: Service, run: RunRef, selection: Selection, theme: Any) -> Drawn:
    chosen = resolve(selection, run)
    result = result_of(service, run)
    pins = pinned(selection, run, result.top_ids[chosen.pos, :2].tolist())
    line = f"What follows {label(result.tokens[chosen.pos])} (position {chosen.pos})"
    trace = trace_of(run)
    story = service.story(trace, StorySpec(chosen.pos, tau=TAU))
    if not pins:
        return blank(320, NOTHING), [], line, emergence_facts(story)
    grid = service.grid(trace, LensSpec(target=pins, positions=(chosen.pos,)))
    figure = curves(
        grid,
        result,
        pos=chosen.pos,
        quantity=selection.curve,
        marks=story,
        theme=theme,
        row=chosen.row,
    )
    tokens = tuple(grid.token(token) for token in pins)
    return figure, pin_list(tokens, palette(theme).categories), line, emergence_facts(story)
