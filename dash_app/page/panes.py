"""Panels of the workspace, their panes, and the side sheets with the options of a pane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dash_bootstrap_components as dbc
from dash.development.base_component import Component

from dash_app.page.glossary import with_terms
from dash_app.page.panel import aria, data
from dash_app.page.thin_layout import Lazy, html

Children = Any

#: Places of the workspace: the left column, the wide one at its right, and three below that.
PLACES = "abcde"


@dataclass(frozen=True, slots=True)
class Pane:
    """One picture of a panel, with its caption, its options and its explanation.

    Attributes:
        name: Its name in ids and in the address.
        tab: Its name in a word or two.
        title: The question that it answers, as a heading.
        body: The picture.
        help: How to read it; the side sheet shows it below the options.
        caption: The text of the one-line caption until a callback writes another.
        caption_id: The caption's id; empty if no callback writes it.
        options: The options in groups: "What", "How" and "Shown"; a group without a name
            contains the headings itself.
        line: A component that replaces the caption.
        lazy: Whether it is drawn only when it is first shown. Set it to False if a script writes
            into the pane.
        wraps: Whether a long caption takes several lines; else it is cut until it has the focus.
    """

    name: str
    tab: str
    title: str
    body: Children
    help: Sequence[str] = ()
    caption: Children = ""
    caption_id: str = ""
    options: Mapping[str, Children] = field(default_factory=dict)
    line: Component | None = None
    lazy: bool = True
    wraps: bool = False


def icon(name: str) -> Component:
    """An icon of Bootstrap Icons (``tools/page_assets.py`` lists those that exist)."""
    return html.Span(className=f"bi bi-{name}", **aria(hidden="true"))


#: The formats of an export, by ``data-export``: name and help (``assets/js/export.js``).
EXPORTS = {
    "png": ("PNG", "A picture at twice the size of the screen."),
    "png3": ("PNG, 3x", "A picture at three times the size of the screen."),
    "svg": ("SVG", "A picture of lines and text, for any size."),
    "pdf": ("PDF (print)", "Print the picture, or save it as PDF."),
    "paper": ("Figure for a paper…", "White, in millimetres, with or without title."),
    "html": ("Interactive page", "One HTML file with hover boxes that needs no server."),
    "csv": ("CSV", "The numbers of the main table."),
    "json": ("JSON", "All numbers, with units."),
    "py": ("Copy as Python", "A script that computes the numbers again."),
}
#: Those of a panel whose numbers are exported elsewhere.
PICTURES = ("png", "png3", "svg", "pdf")


def panel(
    name: str,
    panes: Sequence[Pane],
    *,
    fixed: bool = False,
    collected: bool = True,
    numbers: bool = True,
    place: str = "",
    titles: Mapping[str, str] | None = None,
) -> Component:
    """A panel: tabs or a title, and one pane on top.

    Args:
        name: Names the panel in the address.
        panes: Its panes; the first is on top until another is chosen.
        fixed: Whether it can be neither maximised nor collapsed.
        collected: Whether its view can be added to a collection, and exported as a picture.
        numbers: Whether its numbers can be exported here.
        place: Its place in the workspace, one of ``PLACES``.
        titles: The titles of all panels of the workspace, by name.
    """
    first = panes[0]
    several = len(panes) > 1
    heading = _tabs(name, panes) if several else html.H2(first.tab, className="panel-title")
    tools = [
        *([_add_button(first.tab)] if collected else []),
        *([] if fixed else _tools(first.tab, name)),
        *([_menu(first.tab, name, titles or {}, numbers=numbers)] if collected else []),
    ]
    header = html.Div([heading, html.Div(tools, className="panel-tools")], className="panel-header")
    shown = [_pane(pane, pane is not first, several, of_run=not fixed) for pane in panes]
    return html.Section(
        [header, *shown],
        className=f"panel panel-{name}",
        **data(panel=name),
        **({**data(place=place), "style": {"gridArea": place}} if place else {}),
        **aria(label=first.tab),
    )


def _tabs(name: str, panes: Sequence[Pane]) -> Component:
    tabs = [
        html.Button(
            pane.tab,
            type="button",
            className=f"nav-link{' active' if number == 0 else ''}",
            role="tab",
            title=pane.title,
            **data(pane=pane.name),
            **aria(controls=f"pane-{pane.name}", selected=str(number == 0).lower()),
        )
        for number, pane in enumerate(panes)
    ]
    label = f"Panes of {panes[0].tab}"
    return html.Div(tabs, className="nav nav-underline", role="tablist", **aria(label=label))


def _add_button(title: str) -> Component:
    """Adds the pane on top to a collection (``assets/js/collect.js``)."""
    return icon_button("bookmark-plus", f"Add to a collection: {title}", data(add_view=""))


def _tools(title: str, name: str) -> list[Component]:
    return [
        icon_button("chevron-bar-down", f"Collapse {title}", data(fold=name, title=title)),
        icon_button("arrows-angle-expand", f"Maximise {title}", data(widen=name, title=title)),
    ]


def _menu(title: str, name: str, titles: Mapping[str, str], *, numbers: bool) -> Component:
    """Exports the pane on top (``export.js``), or swaps the panel with another (``workspace.js``).

    It has no id, so that it is inert (``thin_layout``).
    """
    kinds = EXPORTS if numbers else {kind: EXPORTS[kind] for kind in PICTURES}
    entries = [_entry(text, tip, data(export=kind)) for kind, (text, tip) in kinds.items()]
    swaps = [
        _entry(f"Swap with {text}", "", data(swap=f"{name}:{other}"))
        for other, text in titles.items()
        if other != name
    ]
    if swaps:
        swaps.append(_entry("Restore all places", "", data(swap="")))
    rule = [html.Div(className="dropdown-divider")] if swaps else []
    label = f"Export or move {title}" if swaps else f"Export {title}"
    opener = html.Summary(
        html.Span("⋮", **aria(hidden="true")),
        className="icon-button",
        title=label,
        **aria(label=label),
    )
    menu = html.Div(
        [*entries, *rule, *swaps],
        className="dropdown-menu show end-0 overflow-auto",
        role="group",
        **aria(label=label),
        **data(later=""),
    )
    return html.Details(
        [opener, menu],
        className="menu border-0 position-relative",
        **data(export_menu=name),
    )


def _entry(text: str, tip: str, more: Mapping[str, str]) -> Component:
    named: dict[str, Any] = {**more, **({"title": tip} if tip else {})}
    return html.Button(text, type="button", className="dropdown-item small", **named)


def icon_button(name: str, label: str, more: Mapping[str, str]) -> Component:
    """A button with an icon only; ``label`` names it."""
    named: dict[str, Any] = {**more, **aria(label=label)}
    return html.Button(icon(name), type="button", className="icon-button", title=label, **named)


def _pane(pane: Pane, hidden: bool, tabbed: bool, *, of_run: bool) -> Component:
    role: dict[str, Any] = {"role": "tabpanel"} if tabbed else {}
    lazy, later = f"lazy-{pane.name}", hidden and pane.lazy
    body: Component = html.Div(pane.body, className="pane-body")
    return html.Div(
        [_line(pane, of_run), Lazy(body, lazy) if later else body],
        id=f"pane-{pane.name}",
        **(data(lazy=lazy) if later else {}),
        className=f"pane pane-{pane.name}",
        hidden=hidden,
        **role,
        **(aria(label=pane.title) if tabbed else {}),
    )


def _line(pane: Pane, of_run: bool) -> Component:
    """The caption, the chips of changed options, and the button that opens the side sheet.

    ``assets/js/edits.js`` shows the mark of an edited run.
    """
    named: dict[str, Any] = {"id": pane.caption_id} if pane.caption_id else {}
    classes = "panel-caption text-wrap" if pane.wraps else "panel-caption"
    caption = html.Div(pane.caption, className=classes, tabIndex="0", **named)
    opened = f"sheet-{pane.name}"
    text = f"Options and help: {pane.title}" if pane.options else f"Help: {pane.title}"
    button = icon_button("sliders" if pane.options else "question-circle", text, data(sheet=opened))
    chips = html.Div(className="chips", **data(chips=pane.name))
    mark = html.Span(
        "Edited run", hidden=True, className="badge text-bg-warning", **data(edited=pane.name)
    )
    marks = [mark] if of_run and pane.line is None else []
    return html.Div([pane.line or caption, *marks, chips, button], className="pane-line")


def sheet(pane: Pane) -> Component:
    """The side sheet of a pane: its options in groups, and how to read the picture."""
    groups = [
        html.Section([*_group_name(name), *_listed(options)])
        for name, options in pane.options.items()
    ]
    about = html.Section(
        [
            html.H3("How to read it", className="sheet-group"),
            *(html.P(with_terms(text)) for text in pane.help),
        ],
        className="sheet-help",
    )
    return side_sheet(f"sheet-{pane.name}", pane.title, [*groups, about])


def _group_name(name: str) -> list[Component]:
    return [html.H3(name, className="sheet-group")] if name else []


def _listed(options: Children) -> list[Any]:
    return list(options) if isinstance(options, (list, tuple)) else [options]


def side_sheet(name: str, title: str, body: Children) -> Component:
    """A sheet at the right edge that a button with ``data-sheet`` opens."""
    heading = f"{name}-title"
    made: Component = dbc.Offcanvas(
        body,
        id=name,
        title=html.Span(title, id=heading),
        labelledby=heading,
        is_open=False,
        placement="end",
        backdrop=False,
        scrollable=True,
    )
    return made
