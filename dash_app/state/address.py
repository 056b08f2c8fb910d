"""A selection as an address: what a URL or a button's target says, and never trusted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlencode

from pydantic import TypeAdapter, ValidationError

from dash_app.state.selection import Selection


def _with_limits(kind: Any, limits: list[Any]) -> Any:
    """A field's type with what bounds it, as pydantic reads it on its own."""
    return Annotated[kind, *limits] if limits else kind


_IN_URL = tuple(name for name in Selection.model_fields if name != "attempt")
_ADAPTERS: dict[str, TypeAdapter[Any]] = {
    name: TypeAdapter(_with_limits(field.annotation, field.metadata))
    for name, field in Selection.model_fields.items()
}


def parse(pairs: Iterable[tuple[str, str]], base: Selection) -> tuple[Selection, tuple[str, ...]]:
    """Change ``base`` by named values that came as text.

    Returns:
        The new selection, and the names of what meant nothing and was left out.
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
    """Read a URL's query string; ``base`` has the defaults."""
    try:
        pairs = parse_qsl(
            query.removeprefix("?"), keep_blank_values=True, max_num_fields=100, errors="replace"
        )
    except ValueError:
        return base, ("the whole address",)
    return parse(pairs, base)


def to_query(selection: Selection, base: Selection) -> str:
    """The query string that ``from_query`` reads back; empty where all is as in ``base``."""
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
