"""Ids of the tasks view."""

from __future__ import annotations

from enum import StrEnum


class TasksId(StrEnum):
    """What callbacks of this view name."""

    SUITE = "tasks-suite"
    SIZE = "tasks-size"
    DIGITS = "tasks-digits"
    BUTTON = "tasks-run"
    CANCEL = "tasks-cancel"
    FILL = "tasks-progress-fill"
    LABEL = "tasks-progress-label"
    READY = "tasks-ready"
    SUMMARY = "tasks-summary"
    RESULTS = "tasks-results"
    CURVES = "tasks-curves"
    BARS = "tasks-accuracy"
    DOTS = "tasks-prompts"
    WRONG = "tasks-wrong"
