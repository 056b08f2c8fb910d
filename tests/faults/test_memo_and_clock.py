"""A damaged memo or a changed clock never gives a wrong or lost result.

These tests use fake work. ``test_one_host`` uses the real model.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from analysis import codec
from analysis.errors import WorkerStoppedError
from analysis.service import Service
from analysis.store.memo import Memo
from analysis.tracing.specs import RunSpec
from analysis.worker.messages import ServiceSettings
from dash_app.jobs.manager import BackgroundJob, JobManager
from dash_app.monitoring import Metrics
from tests.support.scaled import FAKE

SPEC = RunSpec("fake", "echo x")
DAY = 24 * 3600.0


def make(folder: Path) -> Service:
    return Service(ServiceSettings(cache_dir=folder, function=FAKE), lambda *_: "f")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with make(tmp_path) as made:
        yield made


@contextmanager
def database(folder: Path) -> Iterator[sqlite3.Connection]:
    """The memo's own database, written beside it."""
    with closing(sqlite3.connect(folder / "memo" / "cache.db", isolation_level=None)) as found:
        found.execute("PRAGMA synchronous = OFF")
        yield found


#: An undamaged entry: a damaged one is deleted when it is found.
PUT = (
    "INSERT OR REPLACE INTO Cache (rowid, key, raw, store_time, access_time, mode, value, size)"
    " VALUES (?, ?, 1, 0, 0, 1, ?, ?)"
)


@pytest.mark.full
def test_an_entry_with_any_flipped_byte_is_recomputed(tmp_path: Path) -> None:
    with make(tmp_path) as first:
        right = codec.encode(first.ask(SPEC.model, SPEC))
    memo = Memo(tmp_path / "memo", 1 << 20, memory_limit=0)
    with database(tmp_path) as entries:
        row, key, whole = entries.execute("SELECT rowid, key, value FROM Cache").fetchone()
        for place in range(len(whole)):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << (place % 8)
            entries.execute(PUT, (row, key, bytes(damaged), len(whole)))
            assert memo.get(key) is None, f"byte {place}"
        entries.execute(PUT, (row, key, whole, len(whole)))
        assert codec.encode(codec.decode(memo.get(key) or b"")) == right
        entries.execute(PUT, (row, key, whole[:-1], len(whole)))
    memo.close()
    with make(tmp_path) as again:
        assert codec.encode(again.ask(SPEC.model, SPEC)) == right
        assert again.status().computed == 1


@pytest.mark.full
def test_a_database_damaged_at_many_places_is_recomputed(tmp_path: Path) -> None:
    with make(tmp_path / "whole") as first:
        right = codec.encode(first.ask(SPEC.model, SPEC))
    whole = (tmp_path / "whole" / "memo" / "cache.db").read_bytes()
    folder = tmp_path / "damaged"
    with make(folder) as service:  # one worker for all tests: it recomputes what is lost
        for place in range(0, len(whole), 211):
            damaged = bytearray(whole)
            damaged[place] ^= 0xFF
            (folder / str(place)).mkdir()
            (folder / str(place) / "cache.db").write_bytes(bytes(damaged))
            service._memo = Memo(folder / str(place), 1 << 20)
            assert codec.encode(service.ask(SPEC.model, SPEC)) == right, f"byte {place}"
            service._memo.close()


def test_a_full_disk_is_reported_and_costs_nothing_else(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(service._memo, "_write", full)
    assert service.ask(SPEC.model, SPEC).tokens[0].text == "echo x"
    service._memo.flush()
    status = service.status().memo
    assert "No space left on device" in status.problem, "reading the size succeeds meanwhile"
    assert status.failures == 1
    assert b"stratascope_memo_broken 1.0" in Metrics(service).text()
    monkeypatch.undo()
    assert service.ask("fake", RunSpec("fake", "echo y")).tokens[0].text == "echo y"
    service._memo.flush()
    assert service.problem == ""
    assert b"stratascope_memo_broken 0.0" in Metrics(service).text()


def test_a_clock_set_back_a_day_changes_nothing(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = service.ask(SPEC.model, SPEC)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - DAY)
    assert codec.encode(service.ask(SPEC.model, SPEC)) == codec.encode(once)
    assert service.ask("fake", RunSpec("fake", "steps 3")).tokens[0].text == "steps 3"
    for _ in range(2):
        with pytest.raises(WorkerStoppedError, match="while it worked on this"):
            service.ask("fake", RunSpec("fake", "crash"))
    with pytest.raises(WorkerStoppedError, match="2 times"):
        service.ask("fake", RunSpec("fake", "crash"))
    service._memo._recent.clear()
    assert codec.encode(service.ask(SPEC.model, SPEC)) == codec.encode(once)
    assert service.status().computed == 2


@pytest.mark.parametrize("ahead", [-DAY, DAY])
def test_results_wait_for_their_page_when_the_clock_changes(
    monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    manager = JobManager()
    running = BackgroundJob("key", "user")
    manager._jobs["key"] = running
    manager._finish(running, '"kept"')
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + ahead)
    manager._prune()
    assert manager.get_result("key", "key") == "kept"
    manager.close()


def test_a_request_that_misses_the_memo_just_before_its_equal_ends_is_not_computed_again(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = service.ask(SPEC.model, SPEC)
    monkeypatch.setattr(service, "_find", lambda *_: None)  # the look that came too early
    assert codec.encode(service.ask(SPEC.model, SPEC)) == codec.encode(once)
    assert service.status().computed == 1


def test_concurrent_users_share_equal_work_and_get_their_own_results(service: Service) -> None:
    texts = ["echo same", "echo a", "echo same", "echo b"] * 8
    with ThreadPoolExecutor(len(texts)) as pool:
        answers = list(pool.map(lambda text: service.ask("fake", RunSpec("fake", text)), texts))
    assert [answer.tokens[0].text for answer in answers] == texts
    assert service.status().computed == 3
