"""The addresses of collections: a shared one, an exported one, and the picture of one view."""

from __future__ import annotations

from collections.abc import Callable

from flask import Flask, Response, request

from analysis.errors import SpecError
from dash_app.history import collections
from dash_app.history.collections import Collection
from dash_app.history.database import Database
from dash_app.history.document import document, file_name
from dash_app.security.clients import owner
from dash_app.security.responses import Refusal
from dash_app.settings import Settings
from dash_app.views.history.actions import database_of


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
