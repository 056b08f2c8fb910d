"""A selection as text: in parts in the page's stores, and as a query string in its address."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlencode

from pydantic import TypeAdapter, ValidationError

from dash_app.state.selection import RunRef, Selection

#: The stores that hold the selection; a view listens to the parts that it shows.
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
    """The content of the stores for a selection."""
    values = selection.model_dump(mode="json")
    return {part: {name: values[name] for name in names} for part, names in PARTS.items()}


def join(*parts: Mapping[str, Any] | None) -> Selection:
    """The selection in the stores; missing or invalid values become defaults."""
    values = {name: value for part in parts for name, value in (part or {}).items()}
    try:
        return Selection.model_validate(values)
    except ValidationError:
        return Selection()


def read_run(data: Mapping[str, Any] | None) -> RunRef | None:
    """The run in the page's store; None if there is none."""
    try:
        return RunRef.model_validate(data) if data else None
    except ValidationError:
        return None


def _with_limits(kind: Any, limits: list[Any]) -> Any:
    """A field's type with its limits, as pydantic checks it on its own."""
    return Annotated[kind, *limits] if limits else kind


_IN_URL = tuple(name for name in Selection.model_fields if name != "attempt")
_ADAPTERS: dict[str, TypeAdapter[Any]] = {
    name: TypeAdapter(_with_limits(field.annotation, field.metadata))
    for name, field in Selection.model_fields.items()
}


def parse(pairs: Iterable[tuple[str, str]], base: Selection) -> tuple[Selection, tuple[str, ...]]:
    """Change ``base`` by values given as text, which are never trusted.

    Returns:
        The new selection, and the names that were unknown or had an invalid value.
    """
    values: dict[str, Any] = {}
    ignored: list[str] = []
    for name, text in pairs:
        if name not in _IN_URL:
            ignored.append(name)
            continue
        try:
            values[name] = _ADAPTERS[name].validate_python(text)
        except ValidationError:
            ignored.append(name)
    return base.model_copy(update=values), tuple(dict.fromkeys(ignored))


def from_query(query: str, base: Selection) -> tuple[Selection, tuple[str, ...]]:
    """Read the query string of an address; ``base`` has the defaults."""
    try:
        pairs = parse_qsl(
            query.removeprefix("?"), keep_blank_values=True, max_num_fields=100, errors="replace"
        )
    except ValueError:
        return base, ("the whole address",)
    return parse(pairs, base)


def to_query(selection: Selection, base: Selection) -> str:
    """The query string that ``from_query`` reads back; empty if all is as in ``base``."""
    pairs = [
        (name, _text(getattr(selection, name)))
        for name in _IN_URL
        if getattr(selection, name) != getattr(base, name)
    ]
    return "?" + urlencode(pairs, safe=",") if pairs else ""


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return "" if value is None else str(value)
