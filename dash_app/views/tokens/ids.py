"""Ids of the tokens view."""

from __future__ import annotations

from enum import StrEnum


class TokensId(StrEnum):
    """What callbacks of this view name."""

    STRIP = "tokens-strip"
