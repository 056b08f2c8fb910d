"""A cache in memory with a limit in bytes; it evicts the least recently used value first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from threading import Lock
from typing import Generic, TypeVar

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
