"""A compact choice: a button that opens the options, each with its own line of help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dash import html
from dash.development.base_component import Component

from dash_app.components.attributes import aria
from dash_app.components.go import go, target


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
