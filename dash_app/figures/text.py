"""Everything that turns results into words: token labels, and the story in phrases."""

from dash_app.figures.labels import (
    label,
    labels,
    markup,
    percent,
    plain,
    quoted,
    row_name,
    shorten,
    token_markup,
    width,
)
from dash_app.figures.story import story_phrases

__all__ = [
    "label",
    "labels",
    "markup",
    "percent",
    "plain",
    "quoted",
    "row_name",
    "shorten",
    "story_phrases",
    "token_markup",
    "width",
]
