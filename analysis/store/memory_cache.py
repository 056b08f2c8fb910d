"""A cache in memory that is bounded in bytes: the least recently used goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from threading import Lock
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Bounded(Generic[Value]):
    """Values by key, at most ``limit`` bytes of them, safe to use from several threads.

    The newest value is kept even if it alone is larger than the limit, unless
    ``strict``: a model that fills the memory must still be usable.

    Args:
        limit: Bytes to stay under.
        size: How many bytes a value takes.
        strict: Whether a value larger than the limit is not kept at all.
    """

    def __init__(self, limit: int, size: Callable[[Value], int], *, strict: bool = False) -> None:
        self._limit = limit
        self._size = size
        self._strict = strict
        self._values: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self._used = 0
        self._lock = Lock()

    def get(self, key: Hashable) -> Value | None:
        """The value of ``key``, now the most recently used; None if it is not there."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: Hashable, value: Value) -> None:
        """Keep ``value``, and let go of the least recently used beyond the limit."""
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
        """Let go of ``key``, if it is there."""
        with self._lock:
            self._drop(key)

    def shed(self) -> bool:
        """Let go of the least recently used; False if there is nothing left."""
        with self._lock:
            if self._values:
                self._drop(next(iter(self._values)))
                return True
            return False

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._values.clear()
            self._used = 0

    def _drop(self, key: Hashable) -> None:
        if key in self._values:
            self._used -= self._values.pop(key)[1]

    @property
    def limit(self) -> int:
        """Bytes to stay under."""
        return self._limit

    @property
    def used(self) -> int:
        """Bytes kept."""
        return self._used

    def __iter__(self) -> Iterator[Hashable]:
        """The keys, the least recently used first."""
        with self._lock:
            return iter(list(self._values))

    def __len__(self) -> int:
        return len(self._values)
