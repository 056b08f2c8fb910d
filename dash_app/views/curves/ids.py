"""Ids of the curves view."""

from __future__ import annotations

from enum import StrEnum


class CurvesId(StrEnum):
    """What callbacks of this view name."""

    GRAPH = "curves-graph"
    QUANTITY = "curves-quantity"
    FACTS = "curves-facts"
    PINS = "curves-pins"
    SUBTITLE = "curves-subtitle"
    STRIP = "emergence-graph"
    STRIP_LINE = "emergence-line"
    COMMIT = "emergence-commit"
    STOP = "emergence-stop"
    PROGRESS = "emergence-progress"
    READY = "emergence-ready"
    LAST = "emergence-last"
