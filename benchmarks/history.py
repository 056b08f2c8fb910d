"""Measure how long the History page takes to list 1,000 runs.

    python -m benchmarks.history

It times the page's own callback, from the request to the complete response, without a network:
first the newest runs, then a search.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from dash_app.app import create_app
from dash_app.history import runs
from dash_app.settings import Settings
from dash_app.views.history.actions import database_of
from tests.support.dash_client import DashClient
from tests.support.fake_service import FakeService

RUNS, REPEATS = 1000, 20
TARGET_MS = 200
PROMPT = "When the old bridge over the river fell, the people of the town met in the hall"


def filled(settings: Settings, owner: str) -> None:
    """Record the runs of one user."""
    database = database_of(settings)
    for number in range(RUNS):
        request = {"model": "smollm2-135m-instruct", "prompt": f"{PROMPT} {number}", "new": 4}
        runs.record(database, owner, request, f" and decided {number}", now=1.0 + number)


def median_ms(work: Callable[[], Any]) -> tuple[float, float]:
    """Median and longest time of the repeats, in milliseconds."""
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times), max(times)


def main() -> None:
    """Print the times."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder, "data"), cache_dir=Path(folder, "cache"))
        page = DashClient(create_app(FakeService(), settings))
        filled(settings, page.owner())
        shown: dict[str, Any] = {}

        def ask(name: str, value: Any) -> None:
            shown.update(page.answer("history-list.children", {name}, {name: value}))

        for what, name, value in (
            ("the newest runs", "history-act.data", {"do": "list"}),
            ("a search", "history-search.value", "hall 99"),
        ):
            middle, longest = median_ms(partial(ask, name, value))
            print(
                f"{RUNS} runs, {what}: median {middle:.0f} ms, longest {longest:.0f} ms"
                f" (at most {TARGET_MS} ms); {shown['history-summary']['children'][:40]}"
            )


if __name__ == "__main__":
    main()
