"""Ids of the flow view."""

from __future__ import annotations

from enum import StrEnum


class FlowId(StrEnum):
    """What callbacks of this view name."""

    GRAPH = "flow-graph"
    BOX = "flow-graph-box"
    FILL = "flow-progress-fill"
    LAST = "flow-last"
    READY = "flow-ready"
    METHOD = "flow-method"
    SUBTITLE = "flow-subtitle"
