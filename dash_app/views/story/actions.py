"""From a run and the chosen position to its sentence."""

from __future__ import annotations

from typing import Any

from dash import html, no_update
from dash.development.base_component import Component

from analysis.trajectory.specs import StorySpec
from dash_app.errors import explain
from dash_app.state.context import Service, result_of, trace_of
from dash_app.state.selection import RunRef, Selection, resolve
from dash_app.views.story.layout import sentence
from dash_app.views.story.phrases import story_phrases


def tell(service: Service, run: RunRef, selection: Selection) -> list[Component]:
    """The sentence about the model's own choice at the chosen position."""
    try:
        position = resolve(selection, run).pos
        story = service.ask(trace_of(run), StorySpec(position))
        return sentence(story_phrases(story, result_of(service, run)), selection.pins)
    except Exception as error:  # noqa: BLE001 - a missing sentence must not take the page with it
        problem = explain(error)
        return [html.Span(f"{problem.message} {problem.hint}", className="story-text muted")]


def excuse(status: dict[str, Any] | None) -> Any:
    """What stands in the sentence's place where the very first request failed."""
    if not status or "trouble" not in status:
        return no_update
    return html.Span(
        "Nothing to show yet. See the message above, or click an example.",
        className="story-text muted",
    )
