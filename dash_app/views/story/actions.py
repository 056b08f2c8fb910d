"""From a run and the chosen position to its sentence."""

from __future__ import annotations

from dash import html
from dash.development.base_component import Component

from analysis.specs import StorySpec
from dash_app.errors import explain
from dash_app.figures.text import story_phrases
from dash_app.shell import Service, result_of, trace_of
from dash_app.state import RunRef, Selection, resolve
from dash_app.views.story.layout import sentence


def tell(service: Service, run: RunRef, selection: Selection) -> list[Component]:
    """The sentence about the model's own choice at the chosen position."""
    try:
        position = resolve(selection, run).pos
        story = service.story(trace_of(run), StorySpec(position))
        return sentence(story_phrases(story, result_of(service, run)), selection.pins)
    except Exception as error:  # noqa: BLE001 - a missing sentence must not take the page with it
        problem = explain(error)
        return [html.Span(f"{problem.message} {problem.hint}", className="story-text muted")]
