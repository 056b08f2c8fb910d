"""The sentence, phrase by phrase."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from dash import html
from dash.development.base_component import Component

from dash_app.page.controls import aria, go, target
from dash_app.state.context import Context
from dash_app.state.selection import toggle


class StoryId(StrEnum):
    """What callbacks of this view name."""

    TEXT = "story-text"


def layout(_context: Context) -> Component:
    """The sentence, once there is a run; until then what is going on."""
    return html.Div(
        html.Span("Loading the model and reading the prompt…", className="story-text muted"),
        id=StoryId.TEXT,
        className="story",
        **aria(live="polite"),
    )


def sentence(
    phrases: Iterable[tuple[str, Mapping[str, Any] | None]], pins: tuple[int, ...] | None
) -> list[Component]:
    """Phrases that select what they name, as buttons; the rest as text."""
    return [
        html.Span(text, className="story-text")
        if not names
        else go(text, _target(names, pins), "story-phrase", label=f"Select {text.strip()}")
        for text, names in phrases
    ]


def _target(names: Mapping[str, Any], pins: tuple[int, ...] | None) -> str:
    values = {name: value for name, value in names.items() if name != "pin"}
    if "pin" in names and pins is not None and names["pin"] not in pins:
        return f"{target(**values)}&{toggle('pins', names['pin'], pins)}"
    return target(**values)
