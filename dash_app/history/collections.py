"""Named collections of views: each with a picture, a note and the address of the view."""

from __future__ import annotations

import base64
import binascii
import re
import secrets
import sqlite3
import time
from dataclasses import dataclass

from analysis.errors import SpecError, StoreError
from dash_app.history.database import Database
from dash_app.history.runs import make_room

TITLE, NOTE, ABOUT, QUERY = 120, 4_000, 600, 200_000
#: Largest picture of a view in a collection, in bytes of its data URL.
PICTURE = 1_500_000
#: Most collections of a user.
COLLECTIONS = 100
#: The name of the collection that a first item opens.
FIRST = "My views"

_KINDS = ("data:image/svg+xml;base64,", "data:image/png;base64,")
_SHARED = re.compile(r"[A-Za-z0-9_-]{22}")
#: Bytes that a view in a collection takes beside its texts and its picture.
_ROW = 120


@dataclass(frozen=True, slots=True)
class NewItem:
    """A view to be added to a collection.

    Attributes:
        title: The panel's title.
        digest: The run that the view shows (``runs.digest_of``).
        query: The address of the view, from its question mark on.
        about: The run in words: prompt, model and cell.
        note: What the user wrote about it.
        picture: The view's picture as a data URL, SVG or PNG; empty if it has none.
    """

    title: str
    digest: str
    query: str
    about: str
    note: str = ""
    picture: str = ""

    def __post_init__(self) -> None:
        """Refuse what would not fit, or what is not a picture."""
        for name, most in (("title", TITLE), ("query", QUERY), ("about", ABOUT), ("note", NOTE)):
            _check_length(name, getattr(self, name), most)
        if self.query and not self.query.startswith("?"):
            raise SpecError("The address of a view in a collection starts with a question mark.")
        _check_picture(self.picture)


@dataclass(frozen=True, slots=True)
class Item:
    """A view in a collection.

    Attributes:
        id: Its number.
        title, query, about, note: As in ``NewItem``.
        picture: As in ``NewItem``; empty in a list of collections, which has no pictures.
        has_picture: Whether there is one.
    """

    id: int
    title: str
    query: str
    about: str
    note: str
    picture: str
    has_picture: bool


@dataclass(frozen=True, slots=True)
class Collection:
    """A named list of views.

    Attributes:
        id: Its number.
        title: Its name.
        shared: The secret part of its link; empty if it is not shared.
        items: In the user's order.
    """

    id: int
    title: str
    shared: str
    items: tuple[Item, ...]


def collections(database: Database, owner: str) -> tuple[Collection, ...]:
    """A user's collections without their pictures, in the order in which they were made.

    Raises:
        StoreError: If the file can't be read.
    """
    with database.reading() as connection:
        rows = connection.execute(
            "SELECT * FROM collections WHERE owner = ? ORDER BY id", (owner,)
        ).fetchall()
        return tuple(_with_items(connection, row, pictures=False) for row in rows)


def picture(database: Database, owner: str, number: int) -> tuple[bytes, str] | None:
    """The picture of a view in a user's collection and its media type; None if it has none.

    Raises:
        SpecError: If the user has no such view.
        StoreError: If the file can't be read.
    """
    with database.reading() as connection:
        kept = str(_owned_item(connection, owner, number)["picture"])
    head, _, text = kept.partition(";base64,")
    return (base64.b64decode(text), head.removeprefix("data:")) if text else None


def shared_collection(database: Database, link: str) -> Collection | None:
    """The collection that was shared under ``link``; None if there is none.

    Raises:
        StoreError: If the file can't be read.
    """
    if not _SHARED.fullmatch(link):
        return None
    with database.reading() as connection:
        row = connection.execute("SELECT * FROM collections WHERE shared = ?", (link,)).fetchone()
        return _with_items(connection, row) if row else None


def one_collection(database: Database, owner: str, number: int) -> Collection:
    """One collection of a user.

    Raises:
        SpecError: If the user has no such collection.
        StoreError: If the file can't be read.
    """
    with database.reading() as connection:
        return _with_items(connection, _owned(connection, owner, number))


def create(database: Database, owner: str, title: str) -> int:
    """Make an empty collection; returns its number.

    Raises:
        SpecError: If the title is empty or too long, or there are too many collections.
        StoreError: If the file can't be written.
    """
    title = _clean_title(title)
    with database.transaction() as connection:
        return _create(connection, owner, title)


def rename(database: Database, owner: str, number: int, title: str) -> None:
    """Give a collection another title; errors as in ``create``."""
    title = _clean_title(title)
    with database.transaction(forget=True) as connection:
        _owned(connection, owner, number)
        connection.execute("UPDATE collections SET title = ? WHERE id = ?", (title, number))


def remove(database: Database, owner: str, number: int) -> None:
    """Delete a collection and its views, for good; errors as in ``one_collection``."""
    with database.transaction(forget=True) as connection:
        _owned(connection, owner, number)
        connection.execute("DELETE FROM collections WHERE id = ?", (number,))


def share(database: Database, owner: str, number: int, *, on: bool) -> str:
    """Give a collection a link that nobody can guess, or withdraw it.

    Returns:
        The secret part of the link; empty if it was withdrawn.

    Raises:
        SpecError: If the user has no such collection.
        StoreError: If the file can't be written.
    """
    with database.transaction() as connection:
        shared = str(_owned(connection, owner, number)["shared"] or "")
        wanted = (shared or secrets.token_urlsafe(16)) if on else ""
        connection.execute(
            "UPDATE collections SET shared = ? WHERE id = ?", (wanted or None, number)
        )
        return wanted


def add(database: Database, owner: str, number: int | None, new: NewItem) -> int:
    """Add a view at the end of a collection.

    Args:
        database: Where collections are kept.
        owner: The user's key.
        number: The collection; None: the user's last one, or a first one.
        new: The view.

    Returns:
        The collection's number.

    Raises:
        SpecError: If the user has no such collection.
        StoreError: If the user's share is full, or the file can't be written.
    """
    texts = (new.title, new.query, new.about, new.note, new.picture)
    size = _ROW + sum(len(text.encode()) for text in texts)
    with database.transaction() as connection:
        target = _target(connection, owner, number)
        connection.execute(
            "INSERT INTO items (collection, place, digest, title, query, about, note, picture,"
            " created, bytes) VALUES (:c, (SELECT coalesce(max(place), 0) + 1 FROM items WHERE"
            " collection = :c), :digest, :title, :query, :about, :note, :picture, :now, :bytes)",
            {
                "c": target, "digest": new.digest, "title": new.title, "query": new.query,
                "about": new.about, "note": new.note, "picture": new.picture,
                "now": time.time(), "bytes": size,
            },
        )  # fmt: skip
        _keep_within_share(connection, database, owner)
    return target


def annotate(database: Database, owner: str, number: int, note: str) -> None:
    """Replace the note of a view in a collection.

    Raises:
        SpecError: If the user has no such view, or the note is too long.
        StoreError: If the user's share is full, or the file can't be written.
    """
    _check_length("note", note, NOTE)
    with database.transaction(forget=True) as connection:
        before = _owned_item(connection, owner, number)["note"]
        grown = len(note.encode()) - len(str(before).encode())
        connection.execute(
            "UPDATE items SET note = ?, bytes = bytes + ? WHERE id = ?", (note, grown, number)
        )
        _keep_within_share(connection, database, owner)


def discard(database: Database, owner: str, number: int) -> None:
    """Delete a view in a collection, for good; errors as in ``annotate``."""
    with database.transaction(forget=True) as connection:
        _owned_item(connection, owner, number)
        connection.execute("DELETE FROM items WHERE id = ?", (number,))


def move(database: Database, owner: str, number: int, by: int) -> None:
    """Move a view up (``by`` = -1) or down (1) in its collection; errors as in ``discard``."""
    with database.transaction() as connection:
        row = _owned_item(connection, owner, number)
        order = [
            found[0]
            for found in connection.execute(
                "SELECT id FROM items WHERE collection = ? ORDER BY place, id", (row["collection"],)
            )
        ]
        at = order.index(number)
        order.insert(max(0, min(len(order) - 1, at + by)), order.pop(at))
        connection.executemany(
            "UPDATE items SET place = ? WHERE id = ?",
            [(place, each) for place, each in enumerate(order, 1)],
        )


def _keep_within_share(connection: sqlite3.Connection, database: Database, owner: str) -> None:
    if make_room(connection, database, owner):
        return
    most = database.share
    raise StoreError(
        f"The views in your collections fill your share of this server ({most.entries:,} entries,"
        f" {most.bytes / 2**20:.0f} MiB).",
        "Delete views or a collection on the History page.",
    )


def _target(connection: sqlite3.Connection, owner: str, number: int | None) -> int:
    if number is not None:
        return int(_owned(connection, owner, number)["id"])
    last = connection.execute(
        "SELECT max(id) FROM collections WHERE owner = ?", (owner,)
    ).fetchone()[0]
    return int(last) if last is not None else _create(connection, owner, FIRST)


def _create(connection: sqlite3.Connection, owner: str, title: str) -> int:
    count = connection.execute(
        "SELECT count(*) FROM collections WHERE owner = ?", (owner,)
    ).fetchone()[0]
    if count >= COLLECTIONS:
        raise SpecError(
            f"You have {COLLECTIONS} collections, the most that this server keeps for one person.",
            "Delete one first.",
        )
    made = connection.execute(
        "INSERT INTO collections (owner, title, created) VALUES (?, ?, ?)",
        (owner, title, time.time()),
    )
    return int(made.lastrowid or 0)


def _owned(connection: sqlite3.Connection, owner: str, number: int) -> sqlite3.Row:
    row: sqlite3.Row | None = connection.execute(
        "SELECT * FROM collections WHERE id = ? AND owner = ?", (number, owner)
    ).fetchone()
    if row is None:
        raise SpecError("You have no such collection.", "Reload the page to see the present ones.")
    return row


def _owned_item(connection: sqlite3.Connection, owner: str, number: int) -> sqlite3.Row:
    row: sqlite3.Row | None = connection.execute(
        "SELECT items.* FROM items JOIN collections ON collections.id = items.collection"
        " WHERE items.id = ? AND collections.owner = ?",
        (number, owner),
    ).fetchone()
    if row is None:
        raise SpecError("You have no such view.", "Reload the page to see the present ones.")
    return row


def _with_items(
    connection: sqlite3.Connection, row: sqlite3.Row, *, pictures: bool = True
) -> Collection:
    found = connection.execute(
        "SELECT id, title, query, about, note, iif(?, picture, ''), picture <> '' FROM items"
        " WHERE collection = ? ORDER BY place, id",
        (pictures, row["id"]),
    )
    items = tuple(
        Item(number, title, query, about, note, image, bool(has))
        for number, title, query, about, note, image, has in found
    )
    return Collection(row["id"], row["title"], row["shared"] or "", items)


def _clean_title(title: str) -> str:
    text = " ".join(title.split())
    if not text:
        raise SpecError("A collection needs a title.", "Type one.")
    _check_length("title", text, TITLE)
    return text


def _check_length(name: str, text: str, most: int) -> None:
    if len(text) > most:
        raise SpecError(
            f"The {name} has {len(text):,} characters; at most {most:,} are kept.", "Shorten it."
        )


def _check_picture(picture: str) -> None:
    if not picture:
        return
    if len(picture) > PICTURE:
        raise SpecError(
            f"The picture has {len(picture) / 1e6:.1f} MB; at most {PICTURE / 1e6:.1f} are kept.",
            "Show fewer rows or tokens.",
        )
    kind = next((kind for kind in _KINDS if picture.startswith(kind)), "")
    try:
        base64.b64decode(picture[len(kind) :] if kind else "!", validate=True)
    except binascii.Error as error:
        raise SpecError("This is not a picture.", "Add the view again.") from error
