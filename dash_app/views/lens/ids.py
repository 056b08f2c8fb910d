"""Ids of the lens view."""

from __future__ import annotations

from enum import StrEnum


class LensId(StrEnum):
    """What callbacks of this view name."""

    GRAPH = "lens-graph"
    OPTIONS = "lens-options"
    FIND = "lens-find"
    STATE = "lens-state"
    INSPECTOR = "lens-inspector"
    ADDS = "lens-adds"
    DRAWN = "lens-drawn"
    WANTED = "lens-wanted"
    READY = "lens-ready"
    LAST = "lens-last"
    PROGRESS = "lens-progress"
    STOP = "lens-stop"
    RESUME = "lens-resume"
