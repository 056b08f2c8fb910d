"""Redis, workers and web processes for fault tests, and a record of the recovery times."""

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
    """Print how long a block takes: ``with recovery("a worker killed"):`` around the recovery.

    The time is not tested. ``python -m benchmarks.faults`` prints a table of the times.
    """

    @contextmanager
    def note(what: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        with capsys.disabled():
            print(f"\nrecovery | {what} | {time.monotonic() - began:.2f} s")

    return note
