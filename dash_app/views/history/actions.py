"""The History page: record a run, list and change runs and collections, and export them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

from flask import Flask, Response, request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from analysis.errors import SpecError
from dash_app.errors import explain
from dash_app.history import collections, runs
from dash_app.history.collections import TITLE, Collection, NewItem
from dash_app.history.database import Database, Share
from dash_app.history.document import document, file_name
from dash_app.page.panel import notice, problem_notice
from dash_app.page.token_labels import row_name
from dash_app.security.clients import BROWSER, COOKIE_DAYS, owner
from dash_app.security.responses import Refusal
from dash_app.settings import MIB, Settings
from dash_app.state.context import PARTS, Context, result_of, to_query
from dash_app.state.selection import RunRef, Selection, resolve
from dash_app.views.history.layout import PAGE, collection_list, run_table, summary

_DAY_S = 86_400
_NO_COOKIE = (
    "This browser accepts no cookie from this page, so it has no history.",
    "Allow cookies for this page, then reload it.",
)
Do = Literal[
    "list", "delete-run", "delete-all", "create", "rename", "delete-collection", "share", "unshare",
    "note", "up", "down", "discard",
]  # fmt: skip


class Act(BaseModel):
    """What the browser reports: an action, the entry's number, and the text that was typed."""

    model_config = ConfigDict(frozen=True)

    do: Do = "list"
    id: int = Field(default=0, ge=0, le=2**53)
    text: str = Field(default="", max_length=20_000)


def database_of(settings: Settings) -> Database:
    """The store of runs and collections."""
    share = Share(settings.history_entries, settings.history_mib * MIB)
    return Database(settings.data_dir / "history.sqlite", share)


def request_of(run: RunRef) -> dict[str, Any]:
    """The selection's fields that reproduce a run; those of sampling if they are not the usual."""
    fields, usual = run.model_dump(mode="json"), RunRef.model_fields
    names = [name for name in PARTS["request"] if name != "attempt"]
    return {
        name: fields[name]
        for name in names
        if usual[name].is_required() or name == "template" or fields[name] != usual[name].default
    }


def record(context: Context, run: RunRef) -> bool:
    """Add a run to the user's list.

    Returns:
        Whether it was recorded.

    Raises:
        StoreError: If the store can't be written.
    """
    who = owner()
    if not who:
        return False
    result = result_of(context.service, run)
    answer = "".join(token.text for token in result.tokens[run.prompt_length :])
    return runs.record(database_of(context.settings), who, request_of(run), answer)


class Housekeeping:
    """Deletes the entries of browsers that are gone, once a day at most."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._next = 0.0

    def run_daily(self) -> None:
        """Do it if the last time was a day ago.

        Raises:
            StoreError: If the store can't be written.
        """
        now = time.time()
        if now >= self._next:
            self._next = now + _DAY_S
            before = now - COOKIE_DAYS * _DAY_S
            runs.forget_unused(database_of(self._settings), BROWSER, before)


def answer(context: Context, given: Any, search: Any, origin: str) -> tuple[Any, Any, Any, Any]:
    """Do what the browser reports, and draw both lists.

    Returns:
        Summary, list of runs, collections, and a message.
    """
    if not owner():
        return "", [], [], notice(*_NO_COOKIE, kind="warn")
    message: Any = []
    try:
        act = Act.model_validate(given or {})
    except ValidationError:
        act, message = Act(), notice("The page sent something unknown.", "Reload it.", kind="warn")
    try:
        _do(database_of(context.settings), owner(), act)
    except Exception as error:  # noqa: BLE001 - the page shows any error
        message = problem_notice(explain(error))
    start = act.id if act.do == "list" else 0
    try:
        return (*drawn(context, str(search or ""), start, origin), message)
    except Exception as error:  # noqa: BLE001
        return "", [], [], problem_notice(explain(error))


def drawn(context: Context, search: str, start: int, origin: str) -> tuple[Any, Any, Any]:
    """Summary, list of runs and collections of the current user."""
    database = database_of(context.settings)
    page = runs.listed(database, owner(), search, start=start, count=PAGE)
    return (
        summary(page, database.share, search),
        run_table(page, start, search),
        collection_list(collections.collections(database, owner()), origin),
    )


def _do(database: Database, who: str, act: Act) -> None:
    changes: dict[str, Callable[[], Any]] = {
        "list": lambda: None,
        "delete-run": lambda: runs.delete(database, who, act.id),
        "delete-all": lambda: runs.delete_all(database, who),
        "create": lambda: collections.create(database, who, act.text),
        "rename": lambda: collections.rename(database, who, act.id, act.text),
        "delete-collection": lambda: collections.remove(database, who, act.id),
        "share": lambda: collections.share(database, who, act.id, on=True),
        "unshare": lambda: collections.share(database, who, act.id, on=False),
        "note": lambda: collections.annotate(database, who, act.id, act.text),
        "up": lambda: collections.move(database, who, act.id, -1),
        "down": lambda: collections.move(database, who, act.id, 1),
        "discard": lambda: collections.discard(database, who, act.id),
    }
    changes[act.do]()


def targets(context: Context) -> tuple[list[dict[str, str]], str]:
    """The collections that a view can be added to, the last one first, and the one to offer."""
    new = {"label": "A new collection", "value": ""}
    try:
        own = collections.collections(database_of(context.settings), owner())
    except Exception as error:  # noqa: BLE001 - logged; adding the view reports it
        explain(error)
        own = ()
    known = [{"label": each.title, "value": str(each.id)} for each in reversed(own)]
    return [*known, new], (known or [new])[0]["value"]


class Added(BaseModel):
    """A view that the browser adds: the panel's title, its picture, and the collection."""

    model_config = ConfigDict(frozen=True)

    title: str = Field(max_length=TITLE)
    picture: str = ""
    note: str = ""
    collection: int | None = None
    new: str = Field(default="", max_length=1000)


def add(context: Context, given: Any, selection: Selection, run: RunRef | None) -> Any:
    """Add a view to a collection; returns a message."""
    if not owner():
        return notice(*_NO_COOKIE, kind="warn")
    try:
        view = Added.model_validate(given)
    except ValidationError:
        return notice("The view could not be added.", "Reload the page.", kind="warn")
    database = database_of(context.settings)
    try:
        into = collections.create(database, owner(), view.new) if view.new else view.collection
        made = collections.add(database, owner(), into, _new_item(view, selection, run))
        title = collections.one_collection(database, owner(), made).title
    except Exception as error:  # noqa: BLE001 - the page shows any error
        return problem_notice(explain(error))
    return notice(f"Added to “{title}”.", "The History page lists your collections.")


def _new_item(view: Added, selection: Selection, run: RunRef | None) -> NewItem:
    blank = Selection(theme=selection.theme)
    if run is None:
        about = f"model {selection.model}"
        return NewItem(view.title, "", to_query(selection, blank), about, view.note, view.picture)
    at = resolve(selection, run)
    prompt = run.prompt if len(run.prompt) <= 300 else run.prompt[:299] + "…"
    about = f"“{prompt}” on {run.model}, {row_name(at.row)}, position {at.pos}"
    digest = runs.digest_of(request_of(run))
    return NewItem(view.title, digest, to_query(selection, blank), about, view.note, view.picture)


def install(server: Flask, settings: Settings) -> None:
    """Add the addresses to a server; the gate checks every request before."""
    database = database_of(settings)

    def shared(link: str) -> Response:
        found = collections.shared_collection(database, link)
        if found is None:
            raise Refusal(
                404,
                "There is no shared collection at this address.",
                "Its owner may have stopped sharing it. Request a new link.",
            )
        return Response(document(found, "../"), mimetype="text/html")

    def exported(number: int) -> Response:
        found = _own(lambda: collections.one_collection(database, owner(), number))
        name = f'attachment; filename="{file_name(found)}.html"'
        text = document(found, request.url_root)
        return Response(text, mimetype="text/html", headers={"Content-Disposition": name})

    server.add_url_rule("/collections/<link>", "shared_collection", shared)
    server.add_url_rule("/collections/<int:number>/export", "exported_collection", exported)
    server.add_url_rule(
        "/collections/items/<int:number>",
        "collected_picture",
        lambda number: _picture(database, number),
    )


def _picture(database: Database, number: int) -> Response:
    try:
        found = collections.picture(database, owner(), number)
    except SpecError:
        found = None
    if found is None:
        raise Refusal(404, "There is no such picture.", "Reload the page.")
    return Response(found[0], mimetype=found[1])


def _own(find: Callable[[], Collection]) -> Collection:
    try:
        return find()
    except SpecError as error:
        raise Refusal(404, error.message, error.hint) from error
