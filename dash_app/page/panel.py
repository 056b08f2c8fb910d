"""Panels and controls: help, figures that load, messages, buttons, switches and menus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape as html_escape
from textwrap import wrap
from typing import Any
from urllib.parse import urlencode

import dash_bootstrap_components as dbc
from dash import dcc
from dash.development.base_component import Component

from analysis.contract.choices import Choices, Situation
from dash_app.errors import Problem, explain
from dash_app.page.theme import LIGHT
from dash_app.page.thin_layout import html
from dash_app.state.selection import Selection

Children = Any
#: Class names of a figure's wrapper, at rest and while its data is computed.
FIGURE, FIGURE_LOADING = "figure scroll-x", "figure scroll-x is-loading"
#: Plotly's own buttons would cover the picture; the page has its own controls.
GRAPH_CONFIG: Any = {
    "displayModeBar": False,
    "doubleClick": False,
    "scrollZoom": False,
    "showAxisDragHandles": False,
    "displaylogo": False,
    "responsive": True,
}


def aria(**values: str) -> dict[str, Any]:
    """``aria(live="polite")`` as the keyword arguments of an HTML component."""
    return {f"aria-{name}": value for name, value in values.items()}


def data(**values: str) -> dict[str, Any]:
    """``data(copy_address="")`` as the keyword argument ``data-copy-address``."""
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
    further: Mapping[str, str] | None = None,
) -> Component:
    """A button that selects ``to``; ``pressed`` says whether that is selected now."""
    more: dict[str, Any] = {**(further or {}), "data-go": to}
    if title:
        more["title"] = title
    if label:
        # The name must contain the visible text: a user of voice control says what the button
        # shows.
        more.update(aria(label=label) if seen(children) in label else aria(description=label))
    if pressed is not None:
        more["aria-pressed"] = str(pressed).lower()
    return html.Button(children, type="button", className=class_name, **more)


def edit_button(text: str, edit: str, edits: Sequence[str], label: str) -> Component:
    """A button that adds an edit of the run, or removes it if it is applied.

    Args:
        text: What the button shows.
        edit: The short form of the edit.
        edits: Those that are applied.
        label: What the edit does, for screen readers and the tooltip.
    """
    on = edit in edits
    to = urlencode({"without" if on else "with": f"edits:{edit}"}, safe=":,")
    colour = "primary" if on else "outline-secondary"
    return select_button(
        text, to, f"btn btn-sm btn-{colour}", label=f"{text}: {label}", pressed=on, title=label
    )


def seen(children: Any) -> str:
    """The visible text of components."""
    if isinstance(children, (list, tuple)):
        return " ".join(filter(None, map(seen, children)))
    if isinstance(children, Component):
        return seen(getattr(children, "children", None))
    return "" if children is None else str(children)


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
            f"btn btn-outline-secondary segment{' is-selected' if option.value == chosen else ''}",
            label=f"{label}: {option.title}",
            pressed=option.value == chosen,
            title=option.help,
            further=changed(name, chosen, f"{label}: {option.title}")
            if option.value == chosen
            else None,
        )
        for option in options
    ]


def changed(name: str, chosen: str, text: str) -> dict[str, Any]:
    """Attributes of a control whose value is not the default; a panel shows them as a chip.

    Args:
        name: The selection's field.
        chosen: Its value.
        text: The label and the value in words.
    """
    default = _text("none" if (value := Selection.model_fields[name].default) is None else value)
    if chosen == default:
        return {}
    return data(reset=target(**{name: default}), value=text)


def menu(
    name: str, label: str, options: Sequence[Option], chosen: str, *, short: bool = False,
    derived: bool = False, place: str = "", also: Mapping[str, Any] | None = None,
) -> Component:  # fmt: skip
    """A closed list of options for the field ``name`` of the selection (``assets/js/menus.js``).

    Args:
        name: The selection's field.
        label: What is chosen, in a word or two.
        options: The options, among them the chosen one.
        chosen: The value now.
        short: Whether the options are numbers or tokens, which the menu sets side by side.
        derived: Whether the default depends on the run; the control then has no reset.
        place: The pane, if another pane has a menu for the same field.
        also: What an option selects besides.
    """
    title = next((option.title for option in options if option.value == chosen), chosen)
    entries = [_entry(name, label, option, chosen, also or {}) for option in options]
    return html.Details(
        [
            html.Summary(
                [
                    html.Span(label, className="control-label"),
                    html.Span(title, className="menu-value"),
                ]
            ),
            html.Div(
                entries,
                className=f"menu-list{' menu-list--short' if short else ''}",
                role="group",
                **aria(label=label),
            ),
        ],
        className="menu",
        id=f"menu-{place}{name}",
        **({} if derived else changed(name, chosen, f"{label}: {title}")),
    )


def _entry(name: str, label: str, option: Option, chosen: str, also: Any) -> Component:
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
        target(**{name: option.value}, **also),
        f"menu-option{' is-selected' if picked else ''}",
        label=f"{label}: {option.title}",
        pressed=picked,
    )


def help_lines(title: str, lines: Sequence[str]) -> Component:
    """A few lines of help that open below their heading."""
    return html.Details(
        [html.Summary(f"How to read: {title}"), *map(html.P, lines)],
        className="control-help",
    )


def control(label: str, widget: Component) -> Component:
    """A labelled control."""
    return html.Div(
        [html.Span(label, className="control-label"), widget],
        className="control",
        role="group",
        **aria(label=label),
    )


def segmented(buttons: list[Component]) -> Component:
    """Buttons of one switch side by side."""
    return html.Div(buttons, className="segmented")


def radio(name: str, texts: Mapping[str, str], value: str = "") -> Component:
    """A switch that is not part of the selection.

    Args:
        name: Its id.
        texts: What it shows for each value.
        value: The initial value; by default the first of ``texts``.
    """
    made: Component = dbc.RadioItems(
        id=name,
        options=[{"value": each, "label": text} for each, text in texts.items()],
        value=value or next(iter(texts)),
        className="segmented",
        inputClassName="btn-check",
        labelClassName="btn btn-outline-secondary",
        labelCheckedClassName="active",
    )
    return made


def button(text: str, name: str = "", *, color: str = "secondary", **more: Any) -> Component:
    """A button of Bootstrap with a text; ``color`` is one of Bootstrap's names."""
    named = {"id": name} if name else {}
    made: Component = dbc.Button(text, color=color, outline=color == "secondary", **named, **more)
    return made


def field(label: str, widget: Component) -> Component:
    """A form field with its label."""
    return html.Label([html.Span(label, className="control-label"), widget], className="control")


def select_field(name: str, options: Any, value: Any, width: str) -> Component:
    """A closed list of options, ``{"label": ..., "value": ...}``; values are texts."""
    made: Component = dbc.Select(
        id=name, options=options, value=value, style={"minWidth": width}, class_name="select-field"
    )
    return made


def number_field(name: str, value: int, least: int, most: int) -> Component:
    """A field for a whole number."""
    made: Component = dbc.Input(
        id=name, type="number", value=value, min=least, max=most, step=1, class_name="number-input"
    )
    return made


def graph(name: str, label: str, **more: Any) -> Component:
    """A figure with a placeholder until its data arrives.

    The figure fills its panel, unless its layout sets a width or a height. It scrolls if that size,
    or the size in ``layout.meta.least``, is larger than the panel.
    """
    return html.Div(
        dcc.Graph(
            id=name,
            figure=blank_figure(),
            config=GRAPH_CONFIG,
            responsive="auto",
            **more,
        ),
        id=f"{name}-box",
        className=FIGURE,
        role="img",
        tabIndex="0",
        **aria(label=label),
    )


def blank_figure(height: int | None = None, text: str = "") -> dict[str, Any]:
    """An empty figure, with a sentence if there is one."""
    note = {
        # The page's own grey: no single one has a contrast of 4.5 on light and on dark pages.
        "text": f'<span style="color:var(--ink-3)">{text}</span>',
        "x": 0.5,
        "y": 0.5,
        "xref": "paper",
        "yref": "paper",
        "showarrow": False,
        "font": {"size": 13, "color": LIGHT.ink_3},
    }
    return {
        "data": [],
        "layout": {
            **({"height": height} if height else {}),
            "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
            "xaxis": {"visible": False},
            "yaxis": {"visible": False},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "annotations": [note] if text else [],
        },
    }


#: Most characters of a line in a figure that shows a problem.
LINE = 32


def error_figure(error: BaseException, height: int | None = None) -> dict[str, Any]:
    """A figure that shows an error instead of data."""
    return problem_figure(explain(error), height)


def problem_figure(problem: Problem, height: int | None = None) -> dict[str, Any]:
    """A figure that shows a problem instead of data."""
    return message_figure(
        problem.message, problem.hint, f"Request {problem.request}", height=height
    )


def message_figure(*texts: str, height: int | None = None) -> dict[str, Any]:
    """A figure that shows sentences instead of data."""
    lines = [line for text in texts for line in wrap(text, LINE)]
    return blank_figure(height, "<br>".join(html_escape(line) for line in lines))


def problem_notice(problem: Problem) -> Component:
    """An error message: what happened, what to try, and the request's id."""
    return notice(problem.message, problem.hint, kind="danger", request=problem.request)


def notice(message: str, hint: str = "", *, kind: str = "info", request: str = "") -> Component:
    """A message in the page."""
    mark = html.Span(f"Request {request}", className="mono muted alert-id") if request else None
    return html.Div(
        [
            html.Span(message, className="alert-title"),
            html.Span([hint, " ", mark] if mark else hint, className="alert-hint"),
        ],
        className=f"alert alert-{kind}",
        role="alert" if kind == "danger" else "status",
    )


def fact(name: str, value: str) -> Component:
    """One row of an inspector: a name and its value."""
    return html.Div(
        [html.Dt(name, className="inspector-key"), html.Dd(value, className="inspector-value")],
        className="inspector-row",
    )


def empty_state(title: str, text: str) -> Component:
    """What a panel shows before there is anything to show."""
    return html.Div(
        [
            html.Div(title, className="empty-title"),
            html.Div(text, className="empty-text"),
        ],
        className="empty-state",
    )
