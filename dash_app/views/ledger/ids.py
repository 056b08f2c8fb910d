"""Ids of the ledger view."""

from __future__ import annotations

from enum import StrEnum


class LedgerId(StrEnum):
    """What callbacks of this view name."""

    MODEL = "ledger-model"
    RUN = "ledger-run"
    SUBTITLE = "ledger-subtitle"
    FILL = "ledger-progress-fill"
    LABEL = "ledger-progress-label"
