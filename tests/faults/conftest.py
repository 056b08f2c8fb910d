"""Redis, workers and web processes to break, and a note of how long each took to recover."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.scale.conftest import client, open_client, redis_server, start_worker

__all__ = ["client", "open_client", "recovery", "redis_server", "start_worker"]


@pytest.fixture
def recovery(
    capsys: pytest.CaptureFixture[str],
) -> Callable[[str], AbstractContextManager[None]]:
    """``with recovery("a worker killed"):`` around what takes until all is well again.

    Printed, never judged: ``python -m benchmarks.faults`` makes a table of it.
    """

    @contextmanager
    def note(what: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        with capsys.disabled():
            print(f"\nrecovery | {what} | {time.monotonic() - began:.2f} s")

    return note
