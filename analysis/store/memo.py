"""The memo: results on disk as bytes with a checksum, limited in size, never pickle.

diskcache unpickles the entries of its folder (CVE-2025-69872), so anyone who can write to that
folder could run code. ``BytesDisk`` stores and reads bytes only and refuses other entries unread.
Every entry has a checksum over its key and bytes; a damaged or swapped entry is a miss, never a
wrong result.

A request does not fail if the memo is unusable: it is computed, and ``Memo.problem`` has the
reason. ``LruCache`` holds the most recently used values in memory.
"""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Generic, TypeVar

import diskcache

Value = TypeVar("Value")


class LruCache(Generic[Value]):
    """Values by key, at most ``limit`` bytes of them. It is thread-safe.

    The newest value stays even if it alone is larger than the limit, unless ``strict``: a model
    that fills the memory must still be usable.

    Args:
        limit: Largest total size, bytes.
        size: Gives the size of a value, bytes.
        strict: Whether to drop a value that is larger than the limit.
    """

    def __init__(self, limit: int, size: Callable[[Value], int], *, strict: bool = False) -> None:
        self._limit = limit
        self._size = size
        self._strict = strict
        self._values: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self._used = 0
        self._lock = Lock()

    def get(self, key: Hashable) -> Value | None:
        """The value of ``key``, which becomes the most recently used; None if it is absent."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: Hashable, value: Value) -> None:
        """Store ``value``, and evict the least recently used values beyond the limit."""
        size = self._size(value)
        with self._lock:
            self._drop(key)
            if self._strict and size > self._limit:
                return
            self._values[key] = (value, size)
            self._used += size
            while self._used > self._limit and len(self._values) > 1:
                self._drop(next(iter(self._values)))

    def pop(self, key: Hashable) -> None:
        """Remove ``key`` if it is present."""
        with self._lock:
            self._drop(key)

    def evict(self) -> bool:
        """Remove the least recently used value; False if the cache is empty."""
        with self._lock:
            if self._values:
                self._drop(next(iter(self._values)))
                return True
            return False

    def clear(self) -> None:
        """Remove everything."""
        with self._lock:
            self._values.clear()
            self._used = 0

    def _drop(self, key: Hashable) -> None:
        if key in self._values:
            self._used -= self._values.pop(key)[1]

    @property
    def limit(self) -> int:
        """Largest total size, bytes."""
        return self._limit

    @property
    def used(self) -> int:
        """Total size of the stored values, bytes."""
        return self._used

    def __iter__(self) -> Iterator[Hashable]:
        """The keys, the least recently used first."""
        with self._lock:
            return iter(list(self._values))

    def __len__(self) -> int:
        return len(self._values)


#: Part of the folder's limit that the entries of one owner may fill: one in so many.
_OWNERS = 4
#: Owners whose sums are remembered.
_MOST_OWNERS = 256
_MAGIC = b"SSM1"
_DIGEST = 16
_LOCK_TIMEOUT_S = 5.0
_FILENAME = re.compile(r"[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{28}\.val")

Answer = TypeVar("Answer")


class BytesDisk(diskcache.Disk):  # type: ignore[misc]
    """Restricts diskcache to keys of text and values of bytes."""

    def put(self, key: Any) -> tuple[str, bool]:
        """Store a text key.

        Raises:
            TypeError: If it is not text; diskcache would pickle it.
        """
        if type(key) is not str:
            raise TypeError("keys of the memo are text")
        return key, True

    def get(self, key: Any, raw: bool) -> str:
        """Read a text key.

        Raises:
            ValueError: If it is not text; diskcache would unpickle it.
        """
        if not raw or type(key) is not str:
            raise ValueError("the memo holds a key that is not text")
        return key

    def store(self, value: Any, read: bool, key: Any = diskcache.UNKNOWN) -> tuple[Any, ...]:
        """Write bytes; a failed write leaves no partial file.

        Raises:
            TypeError: If the value is not bytes; diskcache would pickle it.
        """
        if type(value) is not bytes or read:
            raise TypeError("values of the memo are bytes")
        if len(value) < self.min_file_size:
            return 0, diskcache.core.MODE_RAW, None, sqlite3.Binary(value)
        name, path = self.filename(key, value)
        try:
            self._write(path, iter((value,)), "xb")
        except BaseException:
            with suppress(OSError):
                Path(path).unlink()
            raise
        return len(value), diskcache.core.MODE_BINARY, name, None

    def fetch(self, mode: int, filename: Any, value: Any, read: bool) -> bytes:
        """Read bytes from the database, or from a file that diskcache itself named.

        Raises:
            ValueError: If the entry is pickle, text, or the name of another file.
        """
        if mode == diskcache.core.MODE_RAW and type(value) is bytes and not read:
            return value
        if mode == diskcache.core.MODE_BINARY and not read and self._is_ours(filename):
            return Path(str(self._directory), str(filename)).read_bytes()
        raise ValueError("the memo holds an entry that is not bytes")

    @staticmethod
    def _is_ours(filename: Any) -> bool:
        return type(filename) is str and _FILENAME.fullmatch(filename) is not None

    def remove(self, file_path: Any) -> None:
        """Remove a file, if diskcache itself named it."""
        if self._is_ours(file_path):
            super().remove(file_path)


def seal(key: str, data: bytes) -> bytes:
    """Prepend a checksum over key and data."""
    return _MAGIC + _digest(key, data) + data


def unseal(key: str, sealed: bytes) -> bytes | None:
    """The data of ``seal``; None if a byte was changed or the key differs."""
    head = len(_MAGIC) + _DIGEST
    data = sealed[head:]
    return data if sealed[:head] == _MAGIC + _digest(key, data) else None


def _digest(key: str, data: bytes) -> bytes:
    return hashlib.blake2b(key.encode() + b"\0" + data, digest_size=_DIGEST).digest()


@dataclass(frozen=True, slots=True)
class MemoStatus:
    """State of the memo, for ``stratascope cache info`` and the metrics.

    ``failures`` counts reads and writes of the folder that failed.
    """

    folder: str
    entries: int
    bytes_used: int
    bytes_limit: int
    hits: int
    misses: int
    problem: str
    failures: int = 0


class Memo:
    """Bytes by key: recent entries in memory, all entries in one private folder.

    A single thread accesses the folder. The short-lived threads of a web server therefore open
    no database connections, and ``put`` does not wait for the disk.

    Args:
        folder: The folder, created with mode 0700; None for memory only.
        limit: Largest size on disk, bytes.
        memory_limit: Largest size in memory, bytes.
    """

    def __init__(self, folder: Path | None, limit: int, memory_limit: int = 64 << 20) -> None:
        self._folder = folder
        self._limit = limit
        self._recent: LruCache[bytes] = LruCache(memory_limit, len, strict=True)
        self._thread = ThreadPoolExecutor(1, "memo")
        self._cache: Any = None
        self._problems: dict[bool, str] = {}  # of the last write and of the last read, if it failed
        self._hits = self._misses = self._failures = 0
        self._written: dict[str, int] = {}  # bytes by owner since its entries were last summed
        self._pending: Future[None] | None = None
        if folder is not None:
            self._thread.submit(self._guard, self._open, None, writes=True).result()

    def get(self, key: str) -> bytes | None:
        """The bytes of ``key``; None if there are none, or they are damaged."""
        found = self._recent.get(key)
        if found is None and self._cache is not None:
            found = self._thread.submit(self._guard, lambda: self._read(key), None).result()
            if found is not None:
                self._recent.put(key, found)
        self._hits += found is not None
        self._misses += found is None
        return found

    def recent(self, key: str) -> bytes | None:
        """The bytes of ``key`` if they are in memory. Never waits for the disk."""
        return self._recent.get(key)

    def put(self, key: str, data: bytes, owner: str = "") -> None:
        """Store ``data`` under ``key``: in memory now, on disk soon.

        The owner is whoever had it computed; the folder stores a hash. If an owner's entries fill
        more than a quarter of the folder, the owner's least recently used ones are removed.
        """
        self._recent.put(key, data)
        most = self._limit // (_OWNERS if owner else 2)
        if self._cache is not None and len(data) <= most:
            tag = hashlib.sha256(f"owner {owner}".encode()).hexdigest()[:16] if owner else None
            self._pending = self._thread.submit(
                self._guard, lambda: self._write(key, data, tag), None, writes=True
            )

    def remove(self, key: str) -> None:
        """Remove ``key``."""
        self._recent.pop(key)
        if self._cache is not None:
            self._thread.submit(self._guard, lambda: self._delete(key), None)

    def clear(self) -> None:
        """Remove everything."""
        self._recent.clear()
        if self._cache is not None:
            self._thread.submit(self._guard, self._cache.clear, None).result()

    def flush(self) -> None:
        """Wait until all entries are on disk."""
        self._thread.submit(lambda: None).result()

    def close(self) -> None:
        """Finish writing and close the folder."""
        if self._cache is not None:
            with suppress(RuntimeError):  # at exit the thread has ended, with everything written
                self._thread.submit(self._guard, self._cache.close, None).result()
        self._thread.shutdown()

    @property
    def problem(self) -> str:
        """Why the folder is not in use, and what to try; "" if it works."""
        return self._problems.get(True) or self._problems.get(False, "")

    def status(self) -> MemoStatus:
        """Entries, bytes, hits, misses, and the problem if there is one."""
        entries, used = 0, 0
        if self._cache is not None:
            measure = lambda: (len(self._cache), int(self._cache.volume()))  # noqa: E731
            entries, used = self._thread.submit(self._guard, measure, (0, 0)).result()
        return MemoStatus(
            str(self._folder or ""), entries, used, self._limit, self._hits, self._misses,
            self.problem, self._failures,
        )  # fmt: skip

    def _guard(
        self, work: Callable[[], Answer], otherwise: Answer, *, writes: bool = False
    ) -> Answer:
        """Run ``work`` on the folder; if it fails, record the problem and return ``otherwise``.

        A read that succeeds says nothing about writes: the disk may be full.
        """
        try:
            done = work()
        except Exception as error:  # noqa: BLE001 - a damaged database makes diskcache raise anything
            self._failures += 1
            what = "stored on" if writes else "read from"
            self._problems[writes] = (
                f"Results are not {what} disk: the memo in {self._folder} can't be used "
                f"({type(error).__name__}: {error}). Free some space there, allow writing, or "
                "remove the folder. Until then repeated requests are slower."
            )
            return otherwise
        self._problems.pop(writes, None)
        return done

    def _open(self) -> None:
        folder = self._folder
        assert folder is not None  # noqa: S101 - only called with a folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise PermissionError("the folder is a link or belongs to another user")
        folder.chmod(0o700)
        self._cache = diskcache.Cache(
            str(folder),
            timeout=_LOCK_TIMEOUT_S,
            disk=BytesDisk,
            size_limit=self._limit,
            eviction_policy="least-recently-used",
            statistics=0,
            tag_index=0,
            # Recent entries are in memory already; SQLite's own caches would grow to 96 MiB.
            sqlite_mmap_size=0,
            sqlite_cache_size=512,
        )

    def _read(self, key: str) -> bytes | None:
        try:
            sealed = self._cache.get(key)
        except (ValueError, TypeError):
            sealed = b""
        if sealed is None:
            return None
        data = unseal(key, sealed) if type(sealed) is bytes else None
        if data is None:
            self._delete(key)
        return data

    def _write(self, key: str, data: bytes, owner: str | None) -> None:
        self._cache.set(key, seal(key, data), tag=owner)
        if owner is None:
            return
        share = self._limit // _OWNERS
        self._written[owner] = self._written.get(owner, share) + len(data)
        if self._written[owner] > share:
            self._written[owner] = self._shrink(owner, share)
        if len(self._written) > _MOST_OWNERS:
            self._written.clear()  # the next entry of each owner sums them again

    def _shrink(self, owner: str, most: int) -> int:
        """Remove the owner's least recently used entries above ``most`` bytes; return the rest."""
        entries = self._cache._sql(
            "SELECT key, size + COALESCE(LENGTH(value), 0) FROM Cache WHERE tag = ?"
            " ORDER BY access_time",
            (owner,),
        ).fetchall()
        total = sum(int(size) for _, size in entries)
        for key, size in entries[:-1]:
            if total <= most:
                break
            self._delete(key)
            total -= int(size)
        return total

    def _delete(self, key: str) -> None:
        self._cache.delete(key)
