"""Ids of the flow view."""

from __future__ import annotations

from enum import StrEnum


class FlowId(StrEnum):
    """What callbacks of this view name."""

    GRAPH = "flow-graph"
    BOX = "flow-graph-box"
    PICTURE = "flow-picture"
    CANVAS = "flow-canvas"
    DRAWN = "flow-drawn"
    LAYERS = "flow-layers"
    FILL = "flow-progress-fill"
    LAST = "flow-last"
    READY = "flow-ready"
    OPTIONS = "flow-options"
    SUBTITLE = "flow-subtitle"
    TABLE = "flow-table"
    INSPECTOR = "flow-inspector"
    CUT = "flow-check-cut"
    COMPARE = "flow-check-compare"
    STOP = "flow-check-stop"
    CHECK_PROGRESS = "flow-check-progress"
    CHECK_READY = "flow-check-ready"
    CHECK_LAST = "flow-check-last"
    CHECKED = "flow-checked"
