"""Ids of the lens view."""

from __future__ import annotations

from enum import StrEnum


class LensId(StrEnum):
    """What callbacks of this view name."""

    GRAPH = "lens-graph"
    COLOUR = "lens-colour"
    INSPECTOR = "lens-inspector"
    SUBTITLE = "lens-subtitle"
