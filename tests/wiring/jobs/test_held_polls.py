"""A poll of a young job waits for its result, for a moment, while threads are free."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask import g

from dash_app.jobs import job_and_draw as progress_module
from dash_app.jobs.manager import JobManager
from tests.support.dash_client import DashClient
from tests.support.scaled import LIMIT_S
from tests.wiring.jobs.test_background_callbacks import make_app


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[JobManager]:
    made = JobManager(tmp_path / "jobs")
    yield made
    made.close()


@pytest.fixture
def waiting(manager: JobManager, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A page whose job ends when ``go`` is set; ``looked`` counts how often a poll looked."""
    monkeypatch.setattr(progress_module, "HOLD_S", LIMIT_S)
    go, looked, has_result = threading.Event(), threading.Semaphore(0), manager.has_result

    def look(key: str) -> bool:
        looked.release()
        return has_result(key)

    def work(_: Any, value: Any) -> Any:
        assert go.wait(LIMIT_S)
        return value

    monkeypatch.setattr(manager, "has_result", look)
    app = make_app(manager, work)
    app.server.before_request(lambda: setattr(g, "background", True))
    progress_module.continue_jobs(app, manager, held=1)
    page = DashClient(app)
    asked = {"in.data": 7}
    handles = page.start("out.data", asked)

    def poll(**query: str) -> Any:
        named = {name: handles[name] for name in ("cacheKey", "job")}
        return page.call("out.data", asked, **named, **query).get_json()

    yield poll, go, looked
    go.set()


def test_a_poll_waits_for_the_result_while_others_are_answered_at_once(waiting: Any) -> None:
    poll, go, looked = waiting
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(poll, repeatable="1", wait="1")
        assert looked.acquire(timeout=LIMIT_S)
        for query in ({}, {"repeatable": "1"}, {"repeatable": "1", "wait": "1"}):
            assert "response" not in poll(**query)  # the third: as many as may wait do
        assert not held.done()
        go.set()
        assert held.result(LIMIT_S)["response"]["out"]["data"] == 7


def test_a_poll_that_waits_ends_when_its_job_is_cancelled(
    waiting: Any, manager: JobManager
) -> None:
    poll, _, looked = waiting
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(poll, repeatable="1", wait="1")
        assert looked.acquire(timeout=LIMIT_S)
        (key,) = manager._jobs
        manager.terminate_job(key)
        assert "out" not in (held.result(LIMIT_S) or {}).get("response", {})
    manager._jobs.clear()
    assert manager.has_result(key)  # lost: the page starts it again


def test_a_poll_waits_only_a_moment(waiting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "HOLD_S", 0.0)
    poll, _, _ = waiting
    assert "response" not in poll(repeatable="1", wait="1")
    assert "response" not in poll(repeatable="1", wait="1")  # the first one waits no more
