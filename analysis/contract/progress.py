"""Progress, cancellation and yielding, from inside a computation to the code that started it.

A computation calls ``step``, ``pause`` and ``check_cancelled``. The code that started it receives
the calls with ``listening``, and may raise ``CancelledError`` in them to stop the work. Without a
listener the calls cost almost nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

#: Receives ``step``: (done, total, label). It raises CancelledError to stop the work.
Listener = Callable[[int, int, str], None]

#: Receives ``pause``: it may run other work. It raises CancelledError to stop the work.
PauseListener = Callable[[], None]

#: Receives ``check_cancelled``: it raises CancelledError to stop the work.
CancelListener = Callable[[], None]

_listener: ContextVar[Listener | None] = ContextVar("stratascope_progress", default=None)
_on_pause: ContextVar[PauseListener | None] = ContextVar("stratascope_pause", default=None)
_on_check: ContextVar[CancelListener | None] = ContextVar("stratascope_cancel", default=None)


def step(done: int, total: int, label: str) -> None:
    """Report that ``done`` of ``total`` steps of ``label`` are finished.

    Raises:
        CancelledError: If the work was cancelled.
    """
    listener = _listener.get()
    if listener is not None:
        listener(done, total, label)


def pause() -> None:
    """Let more urgent work, such as a click, run now in this thread.

    Long work calls it between its chunks (prompts, batches), at least twice a second. Call it
    only outside a forward pass and with no hooks on the model, since the other work may run the
    same model.

    Raises:
        CancelledError: If the work was cancelled.
    """
    on_pause = _on_pause.get()
    if on_pause is not None:
        on_pause()


def check_cancelled() -> None:
    """Stop if the work was cancelled; every block of a model calls it during a forward pass.

    Raises:
        CancelledError: If the work was cancelled.
    """
    on_check = _on_check.get()
    if on_check is not None:
        on_check()


@contextmanager
def listening(
    on_step: Listener | None,
    on_pause: PauseListener | None = None,
    on_check: CancelListener | None = None,
) -> Iterator[None]:
    """Receive the calls of ``step``, ``pause`` and ``check_cancelled`` inside this block."""
    tokens = _listener.set(on_step), _on_pause.set(on_pause), _on_check.set(on_check)
    try:
        yield
    finally:
        _on_check.reset(tokens[2])
        _on_pause.reset(tokens[1])
        _listener.reset(tokens[0])


def on_terminal(done: int, total: int, label: str) -> None:
    """A listener that updates one line on a terminal, and writes nothing if there is none."""
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{label} {done} of {total} ", end=end, file=sys.stderr, flush=True)
