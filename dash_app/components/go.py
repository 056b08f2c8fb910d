"""Buttons that change the selection: the browser reports their ``data-go`` (``page.js``)."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from dash import html
from dash.development.base_component import Component

from dash_app.components.attributes import aria


def target(**values: Any) -> str:
    """What a button selects: ``target(row=3, pins=(1, 2))`` is ``row=3&pins=1,2``."""
    return urlencode([(name, _text(value)) for name, value in values.items()], safe=",")


def _text(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return ",".join(map(str, value)) or "none"
    return str(value)


def go(
    children: Any,
    to: str,
    class_name: str,
    *,
    label: str = "",
    pressed: bool | None = None,
    title: str = "",
) -> Component:
    """A button that selects ``to``; ``pressed`` says whether it is what is selected now."""
    more: dict[str, Any] = {"data-go": to}
    if title:
        more["title"] = title
    if label:
        more.update(aria(label=label))
    if pressed is not None:
        more["aria-pressed"] = str(pressed).lower()
    return html.Button(children, type="button", className=class_name, **more)


def switch(
    name: str, options: tuple[tuple[str, str], ...], chosen: str, label: str
) -> list[Component]:
    """The buttons of a segmented switch for the field ``name`` of the selection."""
    return [
        go(
            text,
            target(**{name: value}),
            f"segment{' is-selected' if value == chosen else ''}",
            label=f"{label}: {text}",
            pressed=value == chosen,
        )
        for value, text in options
    ]
