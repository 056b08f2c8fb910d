"""From a layer and heads to their patterns, and from a click to the selection."""

from __future__ import annotations

from typing import Any

from analysis.tracing.specs import PatternSpec
from dash_app.page.panel import failed
from dash_app.page.token_labels import label, percent
from dash_app.state.context import Service, result_of, trace_of
from dash_app.state.selection import Chosen, RunRef, Selection, resolve
from dash_app.views.attention.figure import attention
from dash_app.views.attention.layout import head_list


def clicked(value: Any, current: Selection, run: RunRef | None) -> Selection:
    """A click on (query, key) chooses the query's position and what this layer makes of it."""
    if run is None:
        return current
    layer = resolve(current, run).layer
    pos = round(value["points"][0]["y"])
    return current.model_copy(update={"pos": pos, "layer": layer, "row": layer + 1})


def draw(service: Service, run: RunRef, selection: Selection, theme: Any) -> tuple[Any, Any, str]:
    """The matrices, the list of heads and a line that says what is seen."""
    try:
        chosen = resolve(selection, run)
        pattern = service.ask(trace_of(run), PatternSpec(chosen.layer))
        result = result_of(service, run)
        figure = attention(pattern, result, heads=chosen.heads, pos=chosen.pos, theme=theme)
        line = _subtitle(pattern, result, chosen)
        return figure, head_list(pattern, chosen.pos, chosen.heads), line
    except Exception as error:  # noqa: BLE001 - said where the figure would be
        return failed(error), [], ""


def _subtitle(pattern: Any, result: Any, chosen: Chosen) -> str:
    weights = pattern.pattern[list(chosen.heads) or slice(None), chosen.pos].mean(axis=0)
    query = label(result.tokens[chosen.pos])
    if weights[0] != weights[0]:
        return f"Layer {chosen.layer} has no attention."
    key = int(weights.argmax())
    read = "itself" if key == chosen.pos else f"{label(result.tokens[key])} ({key})"
    return (
        f"In layer {chosen.layer}, {query} ({chosen.pos}) reads {read} most:"
        f" {percent(float(weights[key]))}."
    )
