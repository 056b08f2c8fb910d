"""Ids of the attention view."""

from __future__ import annotations

from enum import StrEnum


class AttentionId(StrEnum):
    """What callbacks of this view name."""

    GRAPH = "attention-graph"
    LAYER = "attention-layer"
    HEADS = "attention-heads"
    SUBTITLE = "attention-subtitle"
