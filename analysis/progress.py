"""Progress and cancellation, reported from deep inside a computation.

A computation calls ``step`` as it goes. Whoever started it may listen with
``listening``; the listener can raise ``CancelledError`` to stop the work there
and then. Without a listener ``step`` costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

#: (done, total, what is being done); raises CancelledError to stop the work.
Listener = Callable[[int, int, str], None]

_listener: ContextVar[Listener | None] = ContextVar("stratascope_progress", default=None)


def step(done: int, total: int, label: str) -> None:
    """Say that ``done`` of ``total`` steps of ``label`` are finished.

    Raises:
        CancelledError: If the listener wants the work to stop.
    """
    listener = _listener.get()
    if listener is not None:
        listener(done, total, label)


@contextmanager
def listening(listener: Listener | None) -> Iterator[None]:
    """Send every ``step`` inside this block to ``listener``."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
