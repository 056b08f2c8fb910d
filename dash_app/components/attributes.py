"""HTML attributes whose names are no Python names."""

from __future__ import annotations

from typing import Any


def aria(**values: str) -> dict[str, Any]:
    """``aria(live="polite")`` as the keyword arguments of an HTML component."""
    return {f"aria-{name}": value for name, value in values.items()}


def data(**values: str) -> dict[str, Any]:
    """``data(go="pos=4")`` likewise; underscores become hyphens."""
    return {f"data-{name.replace('_', '-')}": value for name, value in values.items()}
