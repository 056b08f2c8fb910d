"""Ids of the story view."""

from __future__ import annotations

from enum import StrEnum


class StoryId(StrEnum):
    """What callbacks of this view name."""

    TEXT = "story-text"
