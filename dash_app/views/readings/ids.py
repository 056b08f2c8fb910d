"""Ids of the readings view."""

from __future__ import annotations

from enum import StrEnum


class ReadingsId(StrEnum):
    """What callbacks of this view name."""

    GRAPH = "readings-graph"
    BOX = "readings-graph-box"
    OPTIONS = "readings-options"
    SUBTITLE = "readings-subtitle"
    NOTE = "readings-note"
    START = "readings-start"
    STOP = "readings-stop"
    PROGRESS = "readings-progress"
    READY = "readings-ready"
    LAST = "readings-last"
    DRAWN = "readings-drawn"
