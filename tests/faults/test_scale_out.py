"""Faults of scale-out and what each user gets: workers, model processes, Redis."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from analysis.contract.jobs import Priority
from analysis.errors import CancelledError, WorkerStoppedError
from tests.support.redis import RedisServer
from tests.support.scaled import DEAF, LIMIT_S, Client, WorkerHost, wait_for

StartWorker = Callable[..., WorkerHost]
Recovery = Callable[[str], AbstractContextManager[None]]


@pytest.mark.full
def test_the_model_process_is_killed(
    start_worker: StartWorker, client: Client, recovery: Recovery
) -> None:
    host = start_worker()
    gate = client.folder / "gate"
    victim, _, _ = client.ask(f"hold {gate}")
    client.started(f"hold {gate}")
    waiting = [client.ask(f"echo {number}")[0] for number in range(3)]
    client.queued(3)
    (model,) = host.children()
    with recovery("model process of a Celery worker killed: its request fails"):
        os.kill(model.pid, signal.SIGKILL)
        with pytest.raises(WorkerStoppedError, match="stopped while it worked on this"):
            victim.result(LIMIT_S)
    with recovery("model process of a Celery worker killed: three others answered"):
        assert [answer.result(LIMIT_S) for answer in waiting] == [f"echo {n}" for n in range(3)]


@pytest.mark.full
def test_a_celery_worker_is_killed_and_its_work_goes_to_another(
    start_worker: StartWorker, client: Client, recovery: Recovery
) -> None:
    first = start_worker("first")
    gate = client.folder / "gate"
    victim, _, heard = client.ask(f"hold {gate}")
    client.started(f"hold {gate}")
    wait_for(lambda: any(progress.label == "holding" for progress in heard))
    start_worker("second")
    wait_for(lambda: client.remote.workers == 2)
    (model,) = first.children()
    with recovery("Celery worker killed: its work begins at another"):
        first.kill()
        client.started(f"hold {gate}", times=2)
    wait_for(lambda: not model.is_running())
    wait_for(lambda: client.remote.workers == 1)
    gate.touch()
    assert victim.result(LIMIT_S) == f"hold {gate}"


@pytest.mark.full
def test_a_request_that_lost_two_workers_is_refused(
    start_worker: StartWorker, client: Client, recovery: Recovery
) -> None:
    gate = client.folder / "gate"
    victim, _, _ = client.ask(f"hold {gate}")
    for number in range(2):
        host = start_worker(f"worker-{number}")
        client.started(f"hold {gate}", times=number + 1)
        host.kill()
    with (
        recovery("second Celery worker killed by the same request: it fails"),
        pytest.raises(WorkerStoppedError, match="stopped a worker 2 times"),
    ):
        victim.result(LIMIT_S)
    with pytest.raises(WorkerStoppedError, match="2 times and is not tried again"):
        client.now(f"hold {gate}")
    start_worker("healthy")
    assert client.now("echo others") == "echo others"
    assert client.lines().count(f"start hold {gate}") == 2


@pytest.mark.full
def test_redis_is_killed_and_started_again_empty(
    start_worker: StartWorker, client: Client, redis_server: RedisServer, recovery: Recovery
) -> None:
    start_worker()
    gate = client.folder / "gate"
    running, _, _ = client.ask(f"hold {gate}")
    client.started(f"hold {gate}")
    waiting, _, _ = client.ask("echo waits")
    suite, _, _ = client.ask("echo suite", priority=Priority.LONG)
    client.queued(1)  # the worker has taken the suite too, and runs it after the click
    redis_server.kill()
    redis_server.start()
    gate.touch()
    with recovery("Redis killed and started empty: all answered"):
        assert running.result(LIMIT_S) == f"hold {gate}"
        assert waiting.result(LIMIT_S) == "echo waits"
        assert suite.result(LIMIT_S) == "echo suite"
    with recovery("Redis killed and started empty: a new request"):
        assert client.now("echo after") == "echo after"


@pytest.mark.full
@pytest.mark.parametrize("long", [False, True])
def test_a_job_that_ends_while_redis_is_away_costs_no_worker(
    start_worker: StartWorker,
    client: Client,
    redis_server: RedisServer,
    recovery: Recovery,
    long: bool,
) -> None:
    """The answer cannot be stored and the message not acknowledged until Redis is back."""
    host = start_worker()
    gate = client.folder / "gate"
    priority = Priority.LONG if long else Priority.INTERACTIVE
    asked, _, _ = client.ask(f"hold {gate}", priority=priority)
    client.started(f"hold {gate}")
    time.sleep(0.3)
    redis_server.kill()
    gate.touch()
    time.sleep(4.0)
    assert client.remote.workers == 0
    redis_server.start()
    kind = "long" if long else "short"
    with recovery(f"Redis away for 4 s while a {kind} job ends: its answer"):
        assert asked.result(LIMIT_S) == f"hold {gate}"
    with recovery(f"Redis away for 4 s while a {kind} job ends: a new request"):
        assert client.now("echo after", priority=priority) == "echo after"
    wait_for(lambda: client.remote.workers == 1)
    assert host.process.poll() is None


@pytest.mark.full
def test_an_outage_while_both_queues_are_busy_costs_neither(
    start_worker: StartWorker, client: Client, redis_server: RedisServer
) -> None:
    start_worker()
    gate, other = client.folder / "gate", client.folder / "other"
    long, _, _ = client.ask(f"long {other}", priority=Priority.LONG)
    client.started(f"long {other}")
    click, _, _ = client.ask(f"hold {gate}")
    client.started(f"hold {gate}")
    redis_server.kill()
    gate.touch()
    time.sleep(2.0)
    redis_server.start()
    assert click.result(LIMIT_S) == f"hold {gate}"
    assert client.now("echo after") == "echo after"
    other.touch()
    assert long.result(LIMIT_S) == f"long {other}"
    assert client.now("echo long", priority=Priority.LONG) == "echo long"


@pytest.mark.full
def test_redis_does_not_answer_for_a_while(
    start_worker: StartWorker, client: Client, redis_server: RedisServer, recovery: Recovery
) -> None:
    """SIGSTOP: connections stay open and carry no data."""
    start_worker()
    gate = client.folder / "gate"
    asked, _, _ = client.ask(f"hold {gate}")
    client.started(f"hold {gate}")
    redis_server.signal(signal.SIGSTOP)
    gate.touch()
    time.sleep(7.0)
    redis_server.signal(signal.SIGCONT)
    with recovery("Redis silent for 7 s: an answer"):
        assert asked.result(LIMIT_S) == f"hold {gate}"
    assert client.now("echo after") == "echo after"


@pytest.mark.full
def test_a_worker_that_consumes_nothing_restarts_its_consumer(
    start_worker: StartWorker, client: Client, recovery: Recovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = client.folder / "deaf"
    mark.touch()
    monkeypatch.setenv(DEAF, str(mark))
    host = start_worker()
    wait_for(lambda: not mark.exists())
    with recovery("Celery worker that consumes nothing: its restart, and an answer"):
        assert client.now("echo x") == "echo x"
    assert "the consumer restarts" in host.log.read_text()
    assert client.now("echo long", priority=Priority.LONG) == "echo long"


@pytest.mark.full
def test_a_task_outlives_the_web_process_that_sent_it(
    start_worker: StartWorker, open_client: Callable[..., Client]
) -> None:
    start_worker()
    stopping, next_one = open_client(), open_client()
    gate = stopping.folder / "gate"
    running, _, _ = stopping.ask(f"hold {gate}", user="anna")
    stopping.started(f"hold {gate}")
    waiting, _, _ = stopping.ask("echo waiting", user="ben")
    stopping.queued(1)
    stopping.close()
    for lost in (running, waiting):
        with pytest.raises(CancelledError):
            lost.result(LIMIT_S)
    again = [next_one.ask(f"hold {gate}")[0], next_one.ask("echo waiting")[0]]
    gate.touch()
    assert [one.result(LIMIT_S) for one in again] == [f"hold {gate}", "echo waiting"]
    assert [line.partition(" ")[0] for line in next_one.lines()] == ["start", "end"] * 2


def test_redis_stays_away(
    start_worker: StartWorker,
    open_client: Callable[..., Client],
    redis_server: RedisServer,
    recovery: Recovery,
) -> None:
    start_worker()
    client = open_client(patience_s=1.0)
    gate = client.folder / "gate"
    running, _, _ = client.ask(f"hold {gate}")
    client.started(f"hold {gate}")
    redis_server.kill()
    with (
        recovery("Redis gone for good: all waiting requests fail"),
        pytest.raises(WorkerStoppedError, match=r"Redis.* can't be reached"),
    ):
        running.result(LIMIT_S)
    with pytest.raises(WorkerStoppedError, match=r"Redis.* can't be reached"):
        client.now("echo x")
    assert client.remote.find("echo x") is None
    assert (client.remote.queued, client.remote.workers) == (0, 0)
    redis_server.start()
    gate.touch()
    with recovery("Redis back after seconds: a new request"):
        assert client.now("echo back") == "echo back"


@pytest.mark.full
def test_redis_loses_the_waiting_requests(
    start_worker: StartWorker, client: Client, redis_server: RedisServer
) -> None:
    """All leases end, as after a clock jump: the task is cancelled and sent again."""
    start_worker()
    gate = client.folder / "gate"
    text = f"hold {gate}"
    asked, _, _ = client.ask(text)
    client.started(text)
    with redis_server.client() as database:
        database.delete(f"stratascope:lock:{text}", f"stratascope:waiters:{text}")
    client.started(text, times=2)
    gate.touch()
    assert asked.result(LIMIT_S) == text


@pytest.mark.full
def test_a_damaged_result_in_redis_is_recomputed(
    start_worker: StartWorker, client: Client, redis_server: RedisServer
) -> None:
    start_worker()
    client.now("echo x")
    name = "stratascope:result:echo x"
    with redis_server.client() as database:
        whole = database.get(name)
        for place in range(len(whole)):
            damaged = bytearray(whole)
            damaged[place] ^= 0x41
            database.set(name, bytes(damaged))
            assert client.remote.find("echo x") is None
    assert client.now("echo x") == "echo x"
    assert client.remote.find("echo x") is not None


@pytest.mark.full
def test_a_silent_worker_counts_as_lost_when_the_clock_changes(
    start_worker: StartWorker, client: Client
) -> None:
    """SIGSTOP: it stores no state and does not end. States are compared, not dated."""
    frozen = start_worker("frozen")
    gate = client.folder / "gate"
    asked, _, _ = client.ask(f"hold {gate}")
    client.started(f"hold {gate}")
    frozen.process.send_signal(signal.SIGSTOP)
    start_worker("other")
    client.started(f"hold {gate}", times=2)
    gate.touch()
    assert asked.result(LIMIT_S) == f"hold {gate}"
    frozen.process.send_signal(signal.SIGCONT)
    assert client.now("echo both are well") == "echo both are well"
    wait_for(lambda: client.remote.workers == 2)


@pytest.mark.full
def test_a_message_that_celery_lost_is_sent_again(
    start_worker: StartWorker, client: Client, redis_server: RedisServer, recovery: Recovery
) -> None:
    asked, _, _ = client.ask("echo x")
    client.queued(1)
    with redis_server.client() as database:
        database.delete("stratascope:celery:clicks")
    start_worker()
    with recovery("a message lost: its task is sent again"):
        assert asked.result(LIMIT_S) == "echo x"


def test_an_answer_that_redis_loses_is_recomputed_a_few_times_only(
    open_client: Callable[..., Client],
    start_worker: StartWorker,
    redis_server: RedisServer,
    tmp_path: Path,
) -> None:
    start_worker()
    client = open_client()
    client.remote._store.find = lambda key, name="": None  # type: ignore[method-assign]
    with pytest.raises(WorkerStoppedError, match="lost several times"):
        client.now("echo lost")
