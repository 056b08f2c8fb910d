"""The History page: the list of runs, and the collections of views."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import dash_bootstrap_components as dbc
from dash import dcc
from dash.development.base_component import Component

from analysis.flow_graph.options import FLOW_METHODS
from dash_app.history.collections import NOTE, TITLE, Collection, Item
from dash_app.history.database import Share
from dash_app.history.runs import Page, Run
from dash_app.page.panel import aria, data, empty_state, target
from dash_app.page.panes import Pane
from dash_app.page.thin_layout import html
from dash_app.page.token_labels import shorten
from dash_app.state.context import Context

#: Runs on one page of the list.
PAGE = 50
#: Longest prompt and answer in the list, in character cells.
_PROMPT, _ANSWER = 90, 40
_BUTTON = "btn btn-sm btn-outline-secondary"


class HistoryId(StrEnum):
    """Ids of this view's components."""

    SEARCH = "history-search"
    SUMMARY = "history-summary"
    LIST = "history-list"
    COLLECTIONS = "history-collections"
    MESSAGE = "history-message"
    ACT = "history-act"
    RECORDED = "history-recorded"
    ADD = "history-add"
    ADDED = "history-added"
    DIALOG = "add-dialog"
    TARGET = "add-target"
    TITLE = "add-title"
    NOTE = "add-note"


_STORES = (HistoryId.ACT, HistoryId.RECORDED, HistoryId.ADD)
RUNS_HELP = (
    "Each request is one entry; running it again moves it to the top. A click on a prompt opens it:"
    " its results are in the server's memo, so nothing is computed unless they were evicted.",
    "Only you see this list. With a login it belongs to your user name; without one, to this"
    " browser, which a cookie identifies. Without the cookie the list can't be reached again.",
    "Deleting is final: the prompt, the answer and the notes are overwritten on the server's disk."
    " Numbers computed from a prompt may stay in the memo for a while; they name no user.",
)
COLLECTIONS_HELP = (
    "Press “Add to collection” in a panel to add its view. A collection keeps the picture as it"
    " was, your note, and the address of the view.",
    "A shared collection has a link that nobody can guess. Whoever has the link, and may open this"
    " page, can read it until you stop sharing it.",
    "The exported document is one HTML file with all pictures. It needs no server.",
)


def layout(_context: Context) -> dict[str, Any]:
    """Both lists, empty until the page is shown (``assets/js/history.js``), and the dialog."""
    line = html.Div(
        [_search(), html.Span(id=HistoryId.SUMMARY, className="muted", **aria(live="polite"))],
        className="controls flex-fill",
    )
    new = html.Div(_button("New collection", "create"), className="controls flex-fill")
    shown = html.Div(id=HistoryId.LIST, className="history-list")
    message = html.Div(id=HistoryId.MESSAGE, **aria(live="polite"))
    return {
        "history": Pane("history", "History", "Runs", [message, shown], RUNS_HELP, line=line),
        "collections": Pane(
            "collections", "Collections", "Views that you collected",
            html.Div(id=HistoryId.COLLECTIONS), COLLECTIONS_HELP, line=new,
        ),
        "collecting": html.Div(
            [
                *(dcc.Store(id=name) for name in _STORES),
                _dialog(),
                dbc.Toast(
                    id=HistoryId.ADDED, header="Collection", is_open=False, dismissable=True,
                    duration=10_000, class_name="added-toast",
                ),
            ]
        ),
    }  # fmt: skip


def _dialog() -> Component:
    """Asks for the collection and a note; ``assets/js/collect.js`` opens it and reads it."""
    fields = [
        _field("Collection", dbc.Select(id=HistoryId.TARGET, options=[], size="sm")),
        _field("Name, for a new collection",
               dbc.Input(id=HistoryId.TITLE, type="text", size="sm", maxLength=TITLE)),
        _field("Note", dbc.Textarea(id=HistoryId.NOTE, size="sm", rows=3, maxLength=NOTE)),
    ]  # fmt: skip
    buttons = [
        html.Button("Add", type="button", className="btn btn-sm btn-primary", **data(add_save="")),
        html.Button(
            "Cancel", type="button", className="btn btn-sm btn-outline-secondary",
            **data(add_cancel=""),
        ),
    ]  # fmt: skip
    dialog: Component = dbc.Modal(
        [
            dbc.ModalHeader(dbc.ModalTitle("Add to collection", id=f"{HistoryId.DIALOG}-title")),
            dbc.ModalBody(fields),
            dbc.ModalFooter(buttons),
        ],
        id=HistoryId.DIALOG,
        is_open=False,
        labelledBy=f"{HistoryId.DIALOG}-title",
    )
    return dialog


def _field(name: str, widget: Any) -> Component:
    return html.Div([dbc.Label(name, html_for=widget.id), widget], className="mb-2")


def _search() -> Component:
    box = dcc.Input(
        id=HistoryId.SEARCH,
        type="search",
        debounce=0.3,
        maxLength=200,
        placeholder="Prompt, answer or model",
        className="form-control form-control-sm history-search",
    )
    return html.Label([html.Span("Search", className="control-label"), box], className="control")


def summary(page: Page, share: Share, search: str) -> str:
    """How many runs there are, and what part of the user's share they and the items take."""
    runs = f"{page.found:,} run{'' if page.found == 1 else 's'}"
    first = f"{runs} with “{search.strip()}”." if search.strip() else f"{runs}."
    return (
        f"{first} Runs and views in collections use {page.entries:,} of your"
        f" {share.entries:,} entries and {page.bytes / 2**20:.1f} of {share.bytes / 2**20:.0f} MiB."
        " When either is full, the oldest runs that no collection shows are deleted."
    )


def run_table(page: Page, start: int, search: str) -> Component:
    """One page of the list, or why it is empty."""
    if not page.runs:
        return (
            empty_state("No run matches.", "Search for another word.")
            if search.strip()
            else empty_state("There are no runs yet.", "Run a prompt; it appears here.")
        )
    names = ("Prompt", "Answer", "Model", "Last run (UTC)", "Times", "In collections", "")
    head = html.Thead(html.Tr([html.Th(name, scope="col") for name in names]))
    table = html.Table(
        [head, html.Tbody([_row(run) for run in page.runs])],
        className="table table-sm history-table",
    )
    return html.Div([table, html.Div(_pager(page, start), className="history-pager")])


def _row(run: Run) -> Component:
    prompt = html.A(
        shorten(run.prompt.replace("\n", "↵"), _PROMPT) or "(empty)",
        href=f"?{target(**run.request, method=FLOW_METHODS.default)}",
        className="mono",
        title=run.prompt,
        dir="auto",
        **data(history_open=target(page="explore", **run.request)),
    )
    also = f" and its {_count(run.items, 'view')}" if run.items else ""
    cells: list[Any] = [
        html.Td(prompt),
        html.Td(shorten(run.answer.replace("\n", "↵"), _ANSWER), className="mono", dir="auto"),
        html.Td(run.model),
        html.Td(_time(run.last), className="num"),
        html.Td(str(run.times), className="num"),
        html.Td(str(run.items or ""), className="num"),
        html.Td(
            _button(
                "Delete", "delete-run", run.id,
                label=f"Delete the run {shorten(run.prompt, 40)}",
                sure=f"Delete it{also} for good?",
            )
        ),
    ]  # fmt: skip
    return html.Tr(cells)


def _pager(page: Page, start: int) -> list[Component]:
    last = start + len(page.runs)
    parts: list[Component] = [
        html.Span(f"{start + 1:,} to {last:,} of {page.found:,}", className="muted")
    ]
    if start > 0:
        parts.append(_button("Newer", "list", max(0, start - PAGE)))
    if last < page.found:
        parts.append(_button("Older", "list", last))
    parts.append(
        _button(
            "Delete everything", "delete-all",
            sure="Delete all runs and all collections for good?",
        )
    )  # fmt: skip
    return parts


def collection_list(collections: Sequence[Collection], origin: str) -> list[Component]:
    """Every collection with its views, or how to begin."""
    if not collections:
        return [
            empty_state(
                "There are no collections yet.",
                "Press “Add to collection” in a panel.",
            )
        ]
    return [_collection(each, origin) for each in reversed(collections)]


def _collection(one: Collection, origin: str) -> Component:
    name = f"collection {one.title}"
    tools: list[Any] = [
        html.A("Export", href=f"collections/{one.id}/export", className=_BUTTON,
               title="Download it as one HTML file", **aria(label=f"Export the {name}")),
        _button("Stop sharing" if one.shared else "Share", "unshare" if one.shared else "share",
                one.id, label=f"{'Stop sharing' if one.shared else 'Share'} the {name}"),
        _button("Rename", "rename", one.id, label=f"Rename the {name}", value=one.title),
        _button("Delete", "delete-collection", one.id, label=f"Delete the {name}",
                sure=f"Delete it and its {_count(len(one.items), 'view')} for good?"),
    ]  # fmt: skip
    parts: list[Any] = [
        html.Div(
            [html.H3(one.title, dir="auto"), html.Div(tools, className="controls")],
            className="collection-head",
        )
    ]
    if one.shared:
        link = f"{origin}/collections/{one.shared}"
        parts.append(html.P(["Shared at ", html.A(link, href=link)], className="muted"))
    items = [_item(item, place, len(one.items)) for place, item in enumerate(one.items)]
    parts.append(
        html.Ol(items, className="item-list")
        if items
        else html.P("There is no view in it yet.", className="muted")
    )
    return html.Section(parts, className="collection", **aria(label=one.title))


def _item(item: Item, place: int, count: int) -> Component:
    tools = [
        _button("Write note", "note", item.id, label=f"Write a note on {item.title}",
                value=item.note),
        *([_button("Up", "up", item.id, label=f"Move {item.title} up")] if place else []),
        *(
            [_button("Down", "down", item.id, label=f"Move {item.title} down")]
            if place < count - 1
            else []
        ),
        _button("Delete", "discard", item.id, label=f"Delete the view {item.title}",
                sure="Delete it for good?"),
    ]  # fmt: skip
    words = [
        html.A(item.title, href=item.query or "?", className="item-title"),
        html.P(item.about, className="muted mono", dir="auto"),
        html.P(item.note, className="item-note", dir="auto") if item.note else None,
        html.Div(tools, className="controls"),
    ]
    picture = (
        html.Img(
            src=f"collections/items/{item.id}",
            alt=f"{item.title}: {item.about}",
            className="item-picture",
        )
        if item.has_picture
        else None
    )
    return html.Li(
        [
            part
            for part in (picture, html.Div([word for word in words if word is not None]))
            if part is not None
        ],
        className="item",
    )


def _button(
    text: str,
    do: str,
    number: int = 0,
    *,
    label: str = "",
    sure: str = "",
    value: str | None = None,
) -> Component:
    """A button that ``assets/js/history.js`` reports.

    Args:
        text: Its text.
        do: What it does (``actions.Act``).
        number: The entry that it changes.
        label: Its text for screen readers, if ``text`` alone is not clear.
        sure: The question that a second click must answer; empty: one click is enough.
        value: The present text, if the button asks for a new one.
    """
    marks = {"history": do, "history_id": str(number)}
    if sure:
        marks["history_sure"] = sure
    if value is not None:
        marks["history_value"] = value
    more = aria(label=label) if label else {}
    return html.Button(text, type="button", className=_BUTTON, **data(**marks), **more)


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
