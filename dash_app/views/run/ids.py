"""Ids of the run view."""

from __future__ import annotations

from enum import StrEnum


class RunId(StrEnum):
    """What callbacks of this view name."""

    MODEL = "run-model"
    CHIPS = "run-chips"
    EXAMPLES = "run-examples"
    PROMPT = "run-prompt"
    NEW = "run-new"
    TEMPLATE = "run-template"
    BUTTON = "run-button"
    CANCEL = "run-cancel"
    LAST = "run-last"
    PROGRESS = "run-progress"
