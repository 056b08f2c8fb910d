"""The runs of each user: recorded once for each request, listed, searched and deleted."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dash_app.history.database import Database

#: Longest answer that is kept, in characters.
ANSWER = 400
#: Bytes that a row takes beside its texts.
_ROW = 120


@dataclass(frozen=True, slots=True)
class Run:
    """One entry of the history.

    Attributes:
        id: Its number.
        model, prompt, answer: What was run, and what the model answered.
        request: The selection's fields that reproduce the run.
        first, last: When it was run for the first and the last time, in seconds since 1970.
        times: How often it was run.
        items: How many views in collections show it; such a run is never dropped for space.
    """

    id: int
    model: str
    prompt: str
    answer: str
    request: dict[str, Any]
    first: float
    last: float
    times: int
    items: int


@dataclass(frozen=True, slots=True)
class Page:
    """A part of the list of runs.

    Attributes:
        runs: The newest first.
        found: Number of runs that the search matches.
        entries: Number of runs and views in collections that the user keeps.
        bytes: Size of their texts and pictures.
    """

    runs: tuple[Run, ...]
    found: int
    entries: int
    bytes: int


def digest_of(request: Mapping[str, Any]) -> str:
    """The name of a request: equal requests have equal names."""
    text = json.dumps(request, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def record(
    database: Database, owner: str, request: Mapping[str, Any], answer: str, *, now: float = 0.0
) -> bool:
    """Add a run to a user's list, or move it to the top if the user ran it before.

    The oldest runs that no collection shows are dropped when the user's share is full.

    Args:
        database: Where runs are kept.
        owner: The user's key.
        request: The selection's fields that reproduce the run, with "model" and "prompt".
        answer: What the model answered.
        now: Seconds since 1970; 0: the present.

    Returns:
        Whether it was recorded; not if views in collections alone fill the share.

    Raises:
        StoreError: If the file can't be written.
    """
    now = now or time.time()
    text, answer = json.dumps(request, sort_keys=True), answer[:ANSWER]
    prompt, model = str(request["prompt"]), str(request["model"])
    size = _ROW + sum(len(part.encode()) for part in (text, prompt, model, answer))
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO runs (owner, digest, model, prompt, request, answer, first, last, times,"
            " bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 1, ?) ON CONFLICT (owner, digest) DO UPDATE"
            " SET last = max(last, excluded.last), times = times + 1, answer = excluded.answer",
            (owner, digest_of(request), model, prompt, text, answer, now, now, size),
        )
        make_room(connection, database, owner)
        kept = connection.execute(
            "SELECT 1 FROM runs WHERE owner = ? AND digest = ?", (owner, digest_of(request))
        )
        return kept.fetchone() is not None


def listed(
    database: Database, owner: str, search: str = "", *, start: int = 0, count: int = 50
) -> Page:
    """A user's runs whose prompt, answer or model contains ``search``, in any case of letters.

    Raises:
        StoreError: If the file can't be read.
    """
    with database.reading() as connection:
        connection.create_function("folded", 1, str.casefold, deterministic=True)
        where = (
            "owner = :owner AND (:text = '' OR instr(folded(prompt), :text)"
            " OR instr(folded(answer), :text) OR instr(folded(model), :text))"
        )
        values = {"owner": owner, "text": search.strip().casefold(), "start": start, "n": count}
        rows = connection.execute(
            f"SELECT *, {_ITEMS} AS items FROM runs WHERE {where}"  # noqa: S608 - no values in it
            " ORDER BY last DESC, id DESC LIMIT :n OFFSET :start",
            values,
        ).fetchall()
        found = connection.execute(
            f"SELECT count(*) FROM runs WHERE {where}",  # noqa: S608
            values,
        ).fetchone()[0]
        entries, size = used(connection, owner)
    return Page(tuple(_run(row) for row in rows), int(found), entries, size)


def delete(database: Database, owner: str, number: int) -> bool:
    """Delete a run and the views in collections that show it, for good.

    Returns:
        Whether the user had such a run; other users' runs are not touched.

    Raises:
        StoreError: If the file can't be written.
    """
    with database.transaction(forget=True) as connection:
        connection.execute(
            "DELETE FROM items WHERE collection IN (SELECT id FROM collections WHERE owner = ?)"
            " AND digest IN (SELECT digest FROM runs WHERE owner = ? AND id = ?)",
            (owner, owner, number),
        )
        done = connection.execute("DELETE FROM runs WHERE owner = ? AND id = ?", (owner, number))
        return done.rowcount == 1


def delete_all(database: Database, owner: str) -> None:
    """Delete every run and every collection of a user, for good.

    Raises:
        StoreError: If the file can't be written.
    """
    with database.transaction(forget=True) as connection:
        connection.execute("DELETE FROM runs WHERE owner = ?", (owner,))
        connection.execute("DELETE FROM collections WHERE owner = ?", (owner,))


def forget_unused(database: Database, prefix: str, before: float) -> int:
    """Delete all entries of the users whose key starts with ``prefix`` and who ran nothing since.

    Returns:
        The number of users whose entries were deleted.

    Raises:
        StoreError: If the file can't be written.
    """
    with database.transaction(forget=True) as connection:
        idle = connection.execute(
            "SELECT owner FROM (SELECT owner, last AS at FROM runs UNION ALL"
            " SELECT owner, created FROM collections) WHERE owner GLOB ? || '*'"
            " GROUP BY owner HAVING max(at) < ?",
            (prefix, before),
        ).fetchall()
        for row in idle:
            connection.execute("DELETE FROM runs WHERE owner = ?", tuple(row))
            connection.execute("DELETE FROM collections WHERE owner = ?", tuple(row))
        return len(idle)


def used(connection: sqlite3.Connection, owner: str) -> tuple[int, int]:
    """Number of a user's runs and views in collections, and the bytes of their content."""
    row = connection.execute(
        "SELECT count(*), coalesce(sum(bytes), 0) FROM (SELECT bytes FROM runs WHERE owner = :owner"
        " UNION ALL SELECT items.bytes FROM items JOIN collections"
        " ON collections.id = items.collection WHERE collections.owner = :owner)",
        {"owner": owner},
    ).fetchone()
    return int(row[0]), int(row[1])


def make_room(connection: sqlite3.Connection, database: Database, owner: str) -> bool:
    """Drop a user's oldest runs that no collection shows until the rest fits the share.

    Returns:
        Whether it fits; not if views in collections alone exceed the share.
    """
    entries, size = used(connection, owner)
    share = database.share
    if entries <= share.entries and size <= share.bytes:
        return True
    oldest = connection.execute(
        f"SELECT id, bytes FROM runs WHERE owner = :owner AND {_ITEMS} = 0 ORDER BY last, id",  # noqa: S608
        {"owner": owner},
    )
    dropped = []
    for number, bytes_ in oldest:
        if entries <= share.entries and size <= share.bytes:
            break
        dropped.append((number,))
        entries, size = entries - 1, size - bytes_
    connection.executemany("DELETE FROM runs WHERE id = ?", dropped)
    return entries <= share.entries and size <= share.bytes


#: The number of views in a user's collections that show a run.
_ITEMS = (
    "(SELECT count(*) FROM items JOIN collections ON collections.id = items.collection"
    " WHERE items.digest = runs.digest AND collections.owner = :owner)"
)


def _run(row: sqlite3.Row) -> Run:
    return Run(
        row["id"],
        row["model"],
        row["prompt"],
        row["answer"],
        json.loads(row["request"]),
        row["first"],
        row["last"],
        row["times"],
        row["items"],
    )
