"""The SQLite file in which users keep runs and collections.

Every call opens the file, makes one transaction and closes it. A transaction is complete or
absent, also after a kill in the middle of a write (SQLite's write-ahead log). Deleted text leaves
the disk: ``secure_delete`` overwrites it with zeros, and a checkpoint then empties the log.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from analysis.errors import AnalysisError, StoreError

#: The version of the tables; a file of a later version is refused.
VERSION = 1
#: How long a call waits for another process's write, in seconds.
PATIENCE_S = 10.0

_TABLES = """
CREATE TABLE runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    owner TEXT NOT NULL, digest TEXT NOT NULL,
    model TEXT NOT NULL, prompt TEXT NOT NULL, request TEXT NOT NULL, answer TEXT NOT NULL,
    first REAL NOT NULL, last REAL NOT NULL, times INTEGER NOT NULL, bytes INTEGER NOT NULL,
    UNIQUE (owner, digest)
);
CREATE INDEX runs_by_time ON runs (owner, last);
CREATE TABLE collections (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    owner TEXT NOT NULL, title TEXT NOT NULL, created REAL NOT NULL, shared TEXT UNIQUE
);
CREATE INDEX collections_by_owner ON collections (owner);
CREATE TABLE items (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    collection INTEGER NOT NULL REFERENCES collections (id) ON DELETE CASCADE,
    place INTEGER NOT NULL, digest TEXT NOT NULL, title TEXT NOT NULL, query TEXT NOT NULL,
    about TEXT NOT NULL, note TEXT NOT NULL, picture TEXT NOT NULL,
    created REAL NOT NULL, bytes INTEGER NOT NULL
);
CREATE INDEX items_by_collection ON items (collection, place);
CREATE INDEX items_by_run ON items (digest);
"""
_SETTINGS = (
    "PRAGMA foreign_keys = ON",
    "PRAGMA secure_delete = ON",
    "PRAGMA synchronous = FULL",
    "PRAGMA journal_mode = WAL",
)


@dataclass(frozen=True, slots=True)
class Share:
    """What one user may keep.

    Attributes:
        entries: Most runs and views in collections together.
        bytes: Most bytes of their texts and pictures.
    """

    entries: int
    bytes: int


class Database:
    """One SQLite file, which the threads and the web processes of one machine share.

    Args:
        path: The file. It is made at the first write, readable by its owner alone.
        share: What one user may keep.
    """

    def __init__(self, path: Path, share: Share) -> None:
        self.path = path
        self.share = share

    @contextmanager
    def transaction(self, *, forget: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction: all of its writes become permanent, or none.

        Args:
            forget: Whether deleted text must have left the disk when the block ends.

        Raises:
            StoreError: If the file can't be read or written.
        """
        try:
            with closing(self._connect()) as connection:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")
                if forget:
                    _empty_log(connection)
        except (sqlite3.Error, OSError) as error:
            raise _unusable(error) from error

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for queries.

        Raises:
            StoreError: If the file can't be read.
        """
        try:
            with closing(self._connect()) as connection:
                yield connection
        except (sqlite3.Error, OSError) as error:
            raise _unusable(error) from error

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.path.exists():
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(self.path, timeout=PATIENCE_S, isolation_level=None)
        try:
            connection.row_factory = sqlite3.Row
            for line in _SETTINGS:
                connection.execute(line)
            _prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection


def _prepare(connection: sqlite3.Connection) -> None:
    """Make the tables of a new file, and refuse a file of a later version."""
    found = _version(connection)
    if found == VERSION:
        return
    if found > VERSION:
        raise StoreError(
            "A later version of this program wrote the history.", "Start that version of it."
        )
    connection.execute("BEGIN IMMEDIATE")  # another process may make the tables meanwhile
    try:
        if _version(connection) == 0:
            for statement in _TABLES.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _empty_log(connection: sqlite3.Connection) -> None:
    """Move the write-ahead log into the file and truncate it; it may hold the deleted text."""
    busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    if busy:
        raise StoreError(
            "It was deleted, but a copy may remain in the history's log for a while.",
            "Delete something else later, or restart the server: both empty the log.",
        )


def _unusable(error: Exception) -> AnalysisError:
    if type(error) is sqlite3.DatabaseError:  # its subclasses are not about the file's content
        return StoreError(
            f"The history's file is damaged ({error}).",
            "Tell the operator of the server to move history.sqlite out of the data folder.",
        )
    return StoreError(
        f"The history can't be read or written ({error}).",
        "Tell the operator of the server. Everything else on the page works.",
    )
