"""Controls as pure functions: buttons that change the selection, and menus of options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from dash import html
from dash.development.base_component import Component


def aria(**values: str) -> dict[str, Any]:
    """``aria(live="polite")`` as the keyword arguments of an HTML component."""
    return {f"aria-{name}": value for name, value in values.items()}


def data(**values: str) -> dict[str, Any]:
    """``data(go="pos=4")`` likewise; underscores become hyphens."""
    return {f"data-{name.replace('_', '-')}": value for name, value in values.items()}


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


@dataclass(frozen=True, slots=True)
class Option:
    """One thing to choose.

    Attributes:
        value: What the selection's field becomes.
        title: Its name.
        help: Formula and source, one line.
        unless: Why it can't be chosen here; empty where it can.
    """

    value: str
    title: str
    help: str = ""
    unless: str = ""


def menu(
    name: str, label: str, options: Sequence[Option], chosen: str, *, short: bool = False
) -> Component:
    """A closed list of options for the field ``name`` of the selection (``assets/js/menus.js``).

    Args:
        name: The selection's field.
        label: What is chosen, in a word or two.
        options: At least the chosen one.
        chosen: The value now.
        short: Whether options are numbers or tokens, to be set side by side.
    """
    title = next((option.title for option in options if option.value == chosen), chosen)
    entries = [_entry(name, label, option, chosen) for option in options]
    return html.Details(
        [
            html.Summary(
                [
                    html.Span(label, className="control-label"),
                    html.Span(title, className="menu-value"),
                ],
                **aria(label=f"{label}: {title}. Choose another"),
            ),
            html.Div(
                entries,
                className=f"menu-list{' menu-list--short' if short else ''}",
                role="group",
                **aria(label=label),
            ),
        ],
        className="menu",
        id=f"menu-{name}",
    )


def _entry(name: str, label: str, option: Option, chosen: str) -> Component:
    inside: list[Any] = [html.Span(option.title, className="menu-title")]
    if option.unless or option.help:
        inside.append(html.Span(option.unless or option.help, className="menu-help"))
    if option.unless:
        return html.Button(
            inside,
            type="button",
            className="menu-option",
            disabled=True,
            **aria(label=f"{label}: {option.title}. {option.unless}"),
        )
    picked = option.value == chosen
    return go(
        inside,
        target(**{name: option.value}),
        f"menu-option{' is-selected' if picked else ''}",
        label=f"{label}: {option.title}",
        pressed=picked,
    )
