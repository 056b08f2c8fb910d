"""A selection as the page's stores hold it: in parts, so that a view hears of its own only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from dash_app.state.selection import Selection

#: The stores a selection is kept in: views listen to the part they show.
PARTS: dict[str, tuple[str, ...]] = {
    "request": ("model", "prompt", "new", "template", "attempt"),
    "cell": ("row", "pos"),
    "focus": ("layer", "heads"),
    "pins": ("pins",),
    "lens": ("component", "head", "source", "decoder", "norm", "similarity", "candidates"),
    "colour": ("colour", "asked", "part", "by"),
    "window": ("show", "find", "fold"),
    "adds": ("adds", "adder"),
    "differ": ("readers", "differ"),
    "curve": ("curve",),
    "method": (
        "method",
        "rule",
        "sources",
        "mass",
        "least",
        "start",
        "sinks",
        "root",
        "direction",
        "split",
        "scale",
        "first",
        "last",
        "token",
        "foil",
    ),
    "link": ("link",),
    "theme": ("theme",),
}


def split(selection: Selection) -> dict[str, dict[str, Any]]:
    """A selection as the stores hold it, part by part."""
    values = selection.model_dump(mode="json")
    return {part: {name: values[name] for name in names} for part, names in PARTS.items()}


def join(*parts: Mapping[str, Any] | None) -> Selection:
    """A selection from its stores; what a store lacks, or what is nonsense there, is a default."""
    values = {name: value for part in parts for name, value in (part or {}).items()}
    try:
        return Selection.model_validate(values)
    except ValidationError:
        return Selection()
