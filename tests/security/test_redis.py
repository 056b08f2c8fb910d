"""Limits and ended sessions that several web processes share through Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.scale.app import ScaleSettings
from analysis.scale.store import Store
from dash_app.security import protect
from dash_app.security.clients import LocalBuckets, Rate, RedisBuckets
from dash_app.security.sessions import Ended, RedisEnded
from dash_app.settings import Settings
from tests.support.redis import RedisServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    running = RedisServer(tmp_path)
    yield running
    running.close()


def test_several_processes_share_buckets_and_ended_sessions(
    server: RedisServer, tmp_path: Path
) -> None:
    settings = [
        Settings(data_dir=tmp_path / name, redis_url=server.url) for name in ("first", "second")
    ]
    (first, ended), (second, known) = (protect.shared(one) for one in settings)
    assert isinstance(first, RedisBuckets)
    assert isinstance(ended, RedisEnded)
    rate = Rate(size=4, per_second=0.001)
    assert [bucket.take("a", rate) for bucket in (first, second, first, second)] == [0] * 4
    assert first.take("a", rate) > 900
    assert second.take("b", rate) == 0
    second.take("a", rate, -1.0)
    assert first.take("a", rate) == 0

    assert "number" not in known
    ended.add("number")
    assert "number" in known
    client = server.client()
    assert all(key.startswith(b"stratascope:") for key in client.scan_iter())
    assert 0 < client.ttl("stratascope:ended:number") <= 12 * 3600
    assert 0 < client.ttl("stratascope:rate:a") <= 4002
    client.close()

    server.close()  # without Redis, each process uses what it knows
    assert "number" in ended
    assert "other" not in known
    assert first.take("a", rate) == 0
    ended.add("late")
    assert "late" in ended
    for bucket in (first, second):
        closed(bucket)


def closed(buckets: Any) -> None:
    buckets._take.registered_client.close()


def test_one_user_cannot_displace_the_answers_of_others(server: RedisServer) -> None:
    client = server.client()
    store = Store(ScaleSettings(server.url, user_bytes=1 << 20), client)
    store.keep("of b", b"b" * 1000, user="b")
    for number in range(40):
        store.keep(f"{number} of a", b"a" * 100_000, user="a")
    assert store.find("of b") is not None
    kept = [number for number in range(40) if store.find(f"{number} of a") is not None]
    assert kept == list(range(30, 40))
    stored = list(client.scan_iter(match="stratascope:result:*"))
    assert sum(client.strlen(name) for name in stored) <= (1 << 20) + 2000
    client.close()


def test_without_redis_each_process_counts_alone(tmp_path: Path) -> None:
    buckets, ended = protect.shared(Settings(data_dir=tmp_path))
    assert isinstance(buckets, LocalBuckets)
    assert type(ended) is Ended
