"""What breaks in scale-out: Celery workers, the model's process, Redis; and what becomes of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from analysis.contract.jobs import Priority
from analysis.errors import WorkerStoppedError
from tests.support.redis import RedisServer
from tests.support.scaled import LIMIT_S, Bureau, WorkerHost, wait_for

Hire = Callable[..., WorkerHost]
Recovery = Callable[[str], AbstractContextManager[None]]


@pytest.mark.full
def test_the_models_process_is_killed(hire: Hire, bureau: Bureau, recovery: Recovery) -> None:
    host = hire()
    gate = bureau.folder / "gate"
    victim, _, _ = bureau.ask(f"hold {gate}")
    bureau.started(f"hold {gate}")
    waiting = [bureau.ask(f"echo {number}")[0] for number in range(3)]
    bureau.queued(3)
    (model,) = host.children()
    with recovery("model process of a Celery worker killed: the asker is told"):
        os.kill(model.pid, signal.SIGKILL)
        with pytest.raises(WorkerStoppedError, match="stopped while it worked on this"):
            victim.result(LIMIT_S)
    with recovery("model process of a Celery worker killed: three others answered"):
        assert [answer.result(LIMIT_S) for answer in waiting] == [f"echo {n}" for n in range(3)]


def test_a_celery_worker_is_killed_and_its_work_goes_to_another(
    hire: Hire, bureau: Bureau, recovery: Recovery
) -> None:
    first = hire("first")
    gate = bureau.folder / "gate"
    victim, _, heard = bureau.ask(f"hold {gate}")
    bureau.started(f"hold {gate}")
    hire("second")
    wait_for(lambda: bureau.remote.workers == 2)
    (model,) = first.children()
    with recovery("Celery worker killed: its work begins at another"):
        first.kill()
        bureau.started(f"hold {gate}", times=2)
    wait_for(lambda: not model.is_running())
    gate.touch()
    assert victim.result(LIMIT_S) == f"hold {gate}"
    assert any(progress.label == "holding" for progress in heard)


@pytest.mark.full
def test_work_that_was_at_two_lost_workers_is_given_up_and_refused(
    hire: Hire, bureau: Bureau, recovery: Recovery
) -> None:
    gate = bureau.folder / "gate"
    victim, _, _ = bureau.ask(f"hold {gate}")
    for number in range(2):
        host = hire(f"worker-{number}")
        bureau.started(f"hold {gate}", times=number + 1)
        host.kill()
    with (
        recovery("second Celery worker killed by the same work: the asker is told"),
        pytest.raises(WorkerStoppedError, match="stopped twice"),
    ):
        victim.result(LIMIT_S)
    with pytest.raises(WorkerStoppedError, match="2 times and is not tried again"):
        bureau.now(f"hold {gate}")
    hire("healthy")
    assert bureau.now("echo others") == "echo others"
    assert bureau.lines().count(f"start hold {gate}") == 2


@pytest.mark.full
def test_redis_is_killed_and_started_again_empty(
    hire: Hire, bureau: Bureau, redis_server: RedisServer, recovery: Recovery
) -> None:
    hire()
    gate = bureau.folder / "gate"
    running, _, _ = bureau.ask(f"hold {gate}")
    bureau.started(f"hold {gate}")
    waiting, _, _ = bureau.ask("echo waits")
    suite, _, _ = bureau.ask("echo suite", priority=Priority.LONG)
    bureau.queued(2)
    redis_server.kill()
    redis_server.start()
    gate.touch()
    with recovery("Redis killed and started empty: all answered"):
        assert running.result(LIMIT_S) == f"hold {gate}"
        assert waiting.result(LIMIT_S) == "echo waits"
        assert suite.result(LIMIT_S) == "echo suite"
    with recovery("Redis killed and started empty: a new request"):
        assert bureau.now("echo after") == "echo after"


@pytest.mark.full
def test_redis_stays_away(
    hire: Hire,
    open_bureau: Callable[..., Bureau],
    redis_server: RedisServer,
    recovery: Recovery,
) -> None:
    hire()
    bureau = open_bureau(patience_s=1.0)
    gate = bureau.folder / "gate"
    running, _, _ = bureau.ask(f"hold {gate}")
    bureau.started(f"hold {gate}")
    redis_server.kill()
    with (
        recovery("Redis gone for good: whoever waits is told"),
        pytest.raises(WorkerStoppedError, match=r"Redis.* can't be reached"),
    ):
        running.result(LIMIT_S)
    with pytest.raises(WorkerStoppedError, match=r"Redis.* can't be reached"):
        bureau.now("echo x")
    assert bureau.remote.find("echo x") is None
    assert (bureau.remote.queued, bureau.remote.workers) == (0, 0)
    redis_server.start()
    gate.touch()
    with recovery("Redis back after seconds: a new request"):
        assert bureau.now("echo back") == "echo back"


@pytest.mark.full
def test_redis_forgets_who_waits(hire: Hire, bureau: Bureau, redis_server: RedisServer) -> None:
    """As when its clock jumps ahead: all claims have run out, the work is stopped, asked again."""
    hire()
    gate = bureau.folder / "gate"
    text = f"hold {gate}"
    asked, _, _ = bureau.ask(text)
    bureau.started(text)
    client = redis_server.client()
    flight = f"stratascope:flight:{text}"
    first = client.hget(flight, "id")
    wait_for(lambda: forgotten(client, text, first))
    bureau.started(text, times=2)
    client.close()
    gate.touch()
    assert asked.result(LIMIT_S) == text


def forgotten(client: Any, text: str, first: bytes) -> bool:
    """Delete the claims, unless it has been asked for anew."""
    now = client.hget(f"stratascope:flight:{text}", "id")
    if now == first:
        client.delete(f"stratascope:waiters:{text}")
    return now not in (first, None)


@pytest.mark.full
def test_a_result_damaged_in_redis_is_computed_anew(
    hire: Hire, bureau: Bureau, redis_server: RedisServer
) -> None:
    hire()
    bureau.now("echo x")
    client = redis_server.client()
    name = "stratascope:result:echo x"
    whole = client.get(name)
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x41
        client.set(name, bytes(damaged))
        assert bureau.remote.find("echo x") is None
    client.close()
    assert bureau.now("echo x") == "echo x"
    assert bureau.remote.find("echo x") is not None


@pytest.mark.full
def test_a_silent_worker_counts_as_lost_whatever_the_time_of_day(
    hire: Hire, bureau: Bureau
) -> None:
    """SIGSTOP: it neither beats nor ends. Beats are counted, not dated."""
    frozen = hire("frozen")
    gate = bureau.folder / "gate"
    asked, _, _ = bureau.ask(f"hold {gate}")
    bureau.started(f"hold {gate}")
    frozen.process.send_signal(signal.SIGSTOP)
    hire("other")
    bureau.started(f"hold {gate}", times=2)
    gate.touch()
    assert asked.result(LIMIT_S) == f"hold {gate}"
    frozen.process.send_signal(signal.SIGCONT)
    assert bureau.now("echo both are well") == "echo both are well"
    wait_for(lambda: bureau.remote.workers == 2)
