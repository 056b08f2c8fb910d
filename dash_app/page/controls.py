"""Controls that change the selection: buttons, switches and menus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from dash import html
from dash.development.base_component import Component

from analysis.contract.choices import Choices, Situation


def aria(**values: str) -> dict[str, Any]:
    """``aria(live="polite")`` as the keyword arguments of an HTML component."""
    return {f"aria-{name}": value for name, value in values.items()}


def data(**values: str) -> dict[str, Any]:
    """``data(copy_address="")`` as ``data-copy-address``, the same way."""
    return {f"data-{name.replace('_', '-')}": value for name, value in values.items()}


def target(**values: Any) -> str:
    """What a button selects: ``target(row=3, pins=(1, 2))`` is ``row=3&pins=1,2``."""
    return urlencode([(name, _text(value)) for name, value in values.items()], safe=",")


def _text(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return ",".join(map(str, value)) or "none"
    return str(value)


def select_button(
    children: Any,
    to: str,
    class_name: str,
    *,
    label: str = "",
    pressed: bool | None = None,
    title: str = "",
) -> Component:
    """A button that selects ``to``; ``pressed`` says whether that is selected now."""
    more: dict[str, Any] = {"data-go": to}
    if title:
        more["title"] = title
    if label:
        more.update(aria(label=label))
    if pressed is not None:
        more["aria-pressed"] = str(pressed).lower()
    return html.Button(children, type="button", className=class_name, **more)


@dataclass(frozen=True, slots=True)
class Option:
    """One value of a control.

    Attributes:
        value: What the selection's field becomes.
        title: The name that the page shows.
        help: Formula, meaning and source in one line.
        unless: Why it is off here; empty where it is available.
    """

    value: str
    title: str
    help: str = ""
    unless: str = ""


def options_of(table: Choices[Any], situation: Situation | None = None) -> list[Option]:
    """A table's choices as options; those that a situation rules out say why."""
    here = situation or Situation()
    return [
        Option(choice.name, choice.label, choice.summary, choice.unavailable(here))
        for choice in table.values()
    ]


def switch(name: str, options: Sequence[Option], chosen: str, label: str) -> list[Component]:
    """The buttons of a segmented switch for the field ``name`` of the selection."""
    return [
        select_button(
            option.title,
            target(**{name: option.value}),
            f"segment{' is-selected' if option.value == chosen else ''}",
            label=f"{label}: {option.title}",
            pressed=option.value == chosen,
            title=option.help,
        )
        for option in options
    ]


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
    return select_button(
        inside,
        target(**{name: option.value}),
        f"menu-option{' is-selected' if picked else ''}",
        label=f"{label}: {option.title}",
        pressed=picked,
    )
