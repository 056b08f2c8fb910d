"""The page: its bar, its pages, and the views in their places."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dash import dcc
from dash.development.base_component import Component
from flask import g, has_request_context

from dash_app.page.glossary import with_terms
from dash_app.page.panel import aria, data, options_of, switch
from dash_app.page.panes import PLACES, Pane, icon, icon_button, panel, sheet, side_sheet
from dash_app.page.thin_layout import Lazy, html
from dash_app.page.tour import start_button, tour
from dash_app.state.context import PARTS, Context, PageId, View
from dash_app.state.options import PAGES, THEMES

HELP = (
    "Type a prompt and run it. The heatmap shows what each state of the residual stream predicts,"
    " row by row. Click a cell, and all other panels show what it is made of.",
    "The button with sliders opens a panel's options and explains how to read the panel. The panel"
    " lists every option that is not at its default; click one to reset it.",
    "You can maximise or collapse a panel. Copy link gives an address that opens the same view.",
)
KEYS = {
    "Ctrl + Enter": "runs the prompt.",
    "Arrows": "move the chosen cell; [ and ] go to the previous or next branch of the answer.",
    "Menu, Shift + F10": "opens Change this for a cell, head, link or node, as a right click does.",
    "Ctrl + Z": "undoes a selection; Ctrl + Shift + Z redoes it.",
    "Esc": "closes the side sheet, or restores a maximised panel.",
    "+  −  0": "zoom the flow while it has the focus; Shift and arrows move it.",
}
#: What the views supply, by name: panes of panels, and parts outside any panel.
Parts = Mapping[str, Any]
#: Panes by panel, in the order of the tabs.
LENS = ("lens", "emergence", "disagreement")
FLOW = ("flow", "links", "check", "block")
ANSWER = ("curves", "contributions")
#: Ids of the elements that hold the options of a side sheet; the part before the dash names the
#: pane.
OPTIONS = (
    "lens-options", "flow-options", "curves-quantity", "contributions-tokens",
    "disagreement-options", "attention-options",
)  # fmt: skip
INSPECTED = {"cell": "Cell", "link": "Link", "head": "Head", "promoted": "Writes"}
INSPECTOR_HELP = (
    "What was clicked last: a cell of the heatmap, a link of the flow, a head, or what a component"
    " writes. The menu ⋮ exports the tab on top.",
    "Direct is the head's direct contribution to the logit that the view Contributions explains."
    " The effect of a link is how much that logit falls if the link is cut. One backward pass"
    " estimates it (flow method Effect).",
)


def page(context: Context, views: Sequence[View]) -> Callable[[], Component]:
    """A function that makes the layout; Dash calls it for each visit."""

    def build() -> Component:
        parts: dict[str, Any] = {}
        for view in views:
            parts.update(view.layout(context))
        panes = [part for part in parts.values() if isinstance(part, Pane)]
        pages = [_page(name, _PAGES[name](parts)) for name in PAGES]
        return html.Div(
            [
                *_stores(views), _skip_link(), _bar(parts), *_messages(), parts["collecting"],
                html.Main(pages, id="content", tabIndex="-1"), *_sheets(panes), parts["change"],
                tour(),
            ],
            className="app",
        )  # fmt: skip

    return build


def _skip_link() -> Component:
    """The first stop of the keyboard: past the bar, to the page's content."""
    return html.A("Skip to the content", href="#content", className="skip-link")


def _page(name: str, content: list[Component]) -> Component:
    """A page; all but the first are drawn only when they are first shown."""
    if name == PAGES.default:
        return html.Div(content, id=f"page-{name}", className="page")
    lazy = f"lazy-page-{name}"
    return html.Div(
        Lazy(content, lazy), id=f"page-{name}", className="page", hidden=True, **data(lazy=lazy)
    )


def _stores(views: Sequence[View]) -> list[Component]:
    """Stores of the selection, of the run, and of what each drawing lacks."""
    further = (
        PageId.EVENTS,
        PageId.QUERY,
        PageId.SCHEME,
        PageId.ASKED,
        PageId.STATUS,
        PageId.RUN,
        PageId.DRAWN,
    )
    drawings = [drawing for view in views for drawing in view.drawings]
    return [
        dcc.Location(id=PageId.URL, refresh=False),
        *(dcc.Store(id=name) for name in (*PARTS, *further)),
        *(dcc.Store(id=name) for one in drawings for name in (one.wanted, one.ready)),
    ]


def _sheets(panes: Sequence[Pane]) -> list[Component]:
    keys = [
        html.Div([html.Dt(name, className="control-label"), html.Dd(what)], className="control")
        for name, what in KEYS.items()
    ]
    body = [*(html.P(with_terms(line)) for line in HELP), start_button(), html.Dl(keys)]
    help_sheet = side_sheet("sheet-help", "Help", body)
    return [*(sheet(pane) for pane in panes), sheet(_inspector({})), help_sheet]


def _explore(parts: Parts) -> list[Component]:
    """The prompt and its answer above, the workspace below."""
    panes = {
        "lens": [parts[name] for name in LENS],
        "flow": [parts[name] for name in FLOW],
        "curves": [parts[name] for name in ANSWER],
        "attention": [parts["attention"]],
        "inspector": [_inspector(parts)],
    }
    titles = {name: one[0].tab for name, one in panes.items()}
    panels = [
        panel(name, panes[name], place=place, titles=titles)
        for name, place in zip(panes, PLACES, strict=True)
    ]
    workspace = html.Div(panels, id="workspace", className="workspace")
    return [parts["prompt"], parts["edits"], parts["story"], parts["tokens"], workspace]


def _inspector(parts: Parts) -> Pane:
    """What was clicked last; ``assets/js/workspace.js`` shows the pane of its kind."""
    tabs = [
        html.Button(
            title,
            type="button",
            className=f"nav-link{' active' if number == 0 else ''}",
            role="tab",
            tabIndex="-1" if number else "0",
            **data(inspect=name),
            **aria(controls=f"inspect-{name}", selected=str(number == 0).lower()),
        )
        for number, (name, title) in enumerate(INSPECTED.items())
    ]
    body = [
        html.Div(
            parts.get(name), id=f"inspect-{name}", className="inspector", role="tabpanel",
            hidden=number > 0, tabIndex="0", **aria(label=title, live="polite"),
        )
        for number, (name, title) in enumerate(INSPECTED.items())
    ]  # fmt: skip
    nav = html.Div(tabs, className="nav nav-underline flex-nowrap gap-2", role="tablist",
                   **aria(label="Inspector"))  # fmt: skip
    change = html.Button(
        "Change this",
        type="button",
        className="btn btn-sm btn-outline-secondary mb-1",
        title="Edit the run at the chosen cell, head or link",
        **data(sheet="sheet-change"),
    )
    shown: list[Component] = [change, *body]
    return Pane("inspector", "Inspector", "What was clicked last", shown, INSPECTOR_HELP, line=nav)


def _compare(parts: Parts) -> list[Component]:
    return [
        parts["pair"],
        panel("compare", [parts["patching"], parts["components"], parts["difference"]], fixed=True),
    ]


def _tasks(parts: Parts) -> list[Component]:
    return [panel("tasks", [parts["tasks"]], fixed=True, numbers=False)]


def _model(parts: Parts) -> list[Component]:
    return [
        parts["facts"],
        panel("ledger", [parts["ledger"]], fixed=True),
        panel("weights", [parts["weights"]], fixed=True),
        panel("model", [parts["model"]], fixed=True),
    ]


def _history(parts: Parts) -> list[Component]:
    return [
        panel("history", [parts["history"]], fixed=True, collected=False),
        panel("collections", [parts["collections"]], fixed=True, collected=False),
    ]


#: The content of each page of ``PAGES``.
_PAGES: dict[str, Callable[[Parts], list[Component]]] = {
    "explore": _explore,
    "compare": _compare,
    "tasks": _tasks,
    "model": _model,
    "history": _history,
}


def themes(chosen: str) -> list[Component]:
    """The buttons of the theme switch."""
    return switch("theme", options_of(THEMES), chosen, "Theme")


def _bar(parts: Parts) -> Component:
    links = [
        html.A(
            choice.label,
            href=f"?page={choice.name}",
            className=f"nav-link{' active' if choice.name == PAGES.default else ''}",
            title=choice.summary,
            **data(page_link=choice.name),
        )
        for choice in PAGES.values()
    ]
    share = html.Button(
        [icon("link-45deg"), html.Span("Copy link", className="ms-1")],
        type="button",
        className="btn btn-sm btn-outline-secondary",
        title="The link contains the model, the prompt, the selection and the arrangement",
        **data(copy_address=""),
    )
    brand = html.Div(
        [html.Span(className="brand-mark", **aria(hidden="true")), html.H1("Stratascope")],
        className="brand",
    )
    switched = html.Div(
        themes("auto"), id=PageId.TOGGLE, className="btn-group", role="group", **aria(label="Theme")
    )
    return html.Header(
        [
            brand,
            html.Nav(links, className="nav nav-underline", **aria(label="Pages")),
            parts["picker"],
            html.Div([*_steps(), switched, *_signed_in(), share, _help()], className="bar-tools"),
        ],
        className="bar",
    )


def _steps() -> list[Component]:
    """Undo and redo; ``assets/js/undo.js`` enables them."""
    texts = (
        ("-1", "arrow-counterclockwise", "Undo (Ctrl+Z)"),
        ("1", "arrow-clockwise", "Redo (Ctrl+Shift+Z)"),
    )
    return [icon_button(name, label, data(step=step)) for step, name, label in texts]


def _help() -> Component:
    return icon_button("question-circle", "Help and keys", data(sheet="sheet-help"))


def visitor() -> tuple[str, bool]:
    """What the layout depends on: the signed-in user, and whether the user may sign out."""
    if not has_request_context():
        return "", False
    return str(g.get("user", "")), bool(g.get("may_sign_out"))


def _signed_in() -> list[Component]:
    """The signed-in user and a button to sign out; nothing without a login."""
    user, may_sign_out = visitor()
    if not user:
        return []
    name = html.Span(user, className="muted", title="Signed in as")
    if not may_sign_out:
        return [name]
    button = html.Button("Sign out", type="submit", className="btn btn-sm btn-link")
    return [html.Form([name, button], action="logout", method="POST", className="sign-out")]


def _messages() -> tuple[Component, Component]:
    close = html.Button(
        icon("x-lg"),
        id=PageId.DISMISS,
        type="button",
        className="icon-button alert-close",
        **aria(label="Dismiss the message"),
    )
    return (
        html.Div(id=PageId.OFFLINE, className="messages", role="alert"),  # assets/js/messages.js
        html.Div([html.Div(id=PageId.ALERT, className="alerts"), close], className="messages"),
    )
