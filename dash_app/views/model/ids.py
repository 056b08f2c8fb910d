"""Ids of the model view."""

from __future__ import annotations

from enum import StrEnum


class ModelId(StrEnum):
    """What callbacks of this view name."""

    REPORTS = "model-reports"
    START = "model-start"
    STOP = "model-stop"
    PROGRESS = "model-progress"
    READY = "model-ready"
    LAST = "model-last"
