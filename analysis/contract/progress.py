"""Progress and cancellation, reported from deep inside a computation.

A computation calls ``step`` as it goes. Whoever started it may listen with
``listening``; the listener can raise ``CancelledError`` to stop the work there
and then. Without a listener ``step`` costs next to nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

#: (done, total, what is being done); raises CancelledError to stop the work.
Listener = Callable[[int, int, str], None]

#: Called where other work may be done in between; raises CancelledError to stop the work.
Host = Callable[[], None]

#: Called where nothing is to be told, only a cancel to be heard; raises CancelledError.
Guard = Callable[[], None]

_listener: ContextVar[Listener | None] = ContextVar("stratascope_progress", default=None)
_host: ContextVar[Host | None] = ContextVar("stratascope_host", default=None)
_guard: ContextVar[Guard | None] = ContextVar("stratascope_guard", default=None)


def step(done: int, total: int, label: str) -> None:
    """Say that ``done`` of ``total`` steps of ``label`` are finished.

    Raises:
        CancelledError: If the listener wants the work to stop.
    """
    listener = _listener.get()
    if listener is not None:
        listener(done, total, label)


def pause() -> None:
    """Let more urgent work be done in between, in this thread: a click during a long job.

    Long work calls it between its chunks (prompts, batches), at least twice a second, and
    only where it is safe: no forward pass under way and none of its hooks on a model, for
    the other work may run the same model.

    Raises:
        CancelledError: If the listener wants the work to stop.
    """
    host = _host.get()
    if host is not None:
        host()


def look() -> None:
    """Look for a cancel, in the midst of a forward pass: every block of a model calls it.

    Raises:
        CancelledError: If nobody wants the work any more.
    """
    guard = _guard.get()
    if guard is not None:
        guard()


@contextmanager
def listening(
    listener: Listener | None, host: Host | None = None, guard: Guard | None = None
) -> Iterator[None]:
    """Send what this block calls to others: ``step`` to ``listener``, ``pause`` to ``host``.

    ``look`` goes to ``guard``.
    """
    tokens = _listener.set(listener), _host.set(host), _guard.set(guard)
    try:
        yield
    finally:
        _guard.reset(tokens[2])
        _host.reset(tokens[1])
        _listener.reset(tokens[0])


def on_terminal(done: int, total: int, label: str) -> None:
    """A listener that keeps one line on a terminal, and writes nothing elsewhere."""
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{label} {done} of {total} ", end=end, file=sys.stderr, flush=True)
