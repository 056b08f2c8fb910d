"""Requests through Redis to a Celery worker: order, sharing, cancel, progress, refusals.

Nothing here is timed: each step waits for the event it needs, with a generous limit.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from analysis.contract.jobs import Priority
from analysis.errors import (
    AnalysisError,
    BusyError,
    CancelledError,
    DeadlineError,
    PromptError,
    WorkerStoppedError,
)
from tests.support.redis import RedisServer
from tests.support.scaled import LIMIT_S, Client, WorkerHost, wait_for

StartWorker = Callable[..., WorkerHost]


def test_answers_are_shared_by_all_web_processes_and_kept(
    shared_clients: tuple[Client, Client], gate: Path
) -> None:
    first, second = shared_clients
    one, _, heard = first.ask(f"hold {gate}")
    first.started(f"hold {gate}")
    two, _, _ = second.ask(f"hold {gate}")
    wait_for(lambda: any(progress.label == "holding" for progress in heard))
    gate.touch()
    assert one.result(LIMIT_S) == two.result(LIMIT_S) == f"hold {gate}"
    assert first.lines().count(f"start hold {gate}") == 1
    assert second.remote.find(f"hold {gate}") is not None
    assert second.remote.find("never asked") is None
    assert second.remote.workers == 1


def test_a_click_goes_before_long_work_and_interrupts_it(shared_client: Client, gate: Path) -> None:
    long, _, heard = shared_client.ask(f"long {gate}", priority=Priority.LONG)
    shared_client.started(f"long {gate}")
    later, _, waiting = shared_client.ask("echo a suite", priority=Priority.LONG)
    shared_client.queued(1)
    assert shared_client.now("echo click") == "echo click"
    wait_for(lambda: any(progress.label == "long" for progress in heard))
    assert not long.done()
    wait_for(lambda: waiting and waiting[-1].queue_position == 1)
    gate.touch()
    assert long.result(LIMIT_S) == f"long {gate}"
    assert later.result(LIMIT_S) == "echo a suite"


def test_users_take_turns_and_see_their_queue_position(shared_client: Client, gate: Path) -> None:
    blocking, _, _ = shared_client.ask(f"hold {gate}", user="other")
    shared_client.started(f"hold {gate}")
    asked = []
    for count, (user, text) in enumerate(
        [
            ("greedy", "echo turn g1"),
            ("greedy", "echo turn g2"),
            ("greedy", "echo turn g3"),
            ("late", "echo turn l1"),
        ]
    ):
        asked.append(shared_client.ask(text, user=user))
        shared_client.queued(count + 1)
        # A request counts as waiting before its task is sent. Its place shows that it was sent:
        # only then is the next one sure to come after it.
        wait_for(lambda heard=asked[-1][2]: heard)
    for (_, _, heard), place in zip(asked, [1, 3, 4, 2], strict=True):
        wait_for(lambda heard=heard, place=place: heard and heard[-1].queue_position == place)
    gate.touch()
    blocking.result(LIMIT_S)
    for answer, _, _ in asked:
        answer.result(LIMIT_S)
    started = [line for line in shared_client.lines() if line.startswith("start echo turn")]
    assert started == [f"start echo turn {name}" for name in ("g1", "l1", "g2", "g3")]


def test_cancelling_stops_work_that_no_other_request_needs(
    shared_client: Client, gate: Path
) -> None:
    text = f"hold {gate}"
    mine, my_job, _ = shared_client.ask(text)
    theirs, their_job, _ = shared_client.ask(text)
    shared_client.started(text)
    my_job.cancel()
    with pytest.raises(CancelledError):
        mine.result(LIMIT_S)
    assert not theirs.done()
    their_job.cancel()
    with pytest.raises(CancelledError):
        theirs.result(LIMIT_S)
    assert shared_client.now("echo next") == "echo next"
    assert f"end {text}" not in shared_client.lines()


def test_a_request_cancelled_in_the_queue_never_starts(shared_client: Client, gate: Path) -> None:
    blocking, _, _ = shared_client.ask(f"hold {gate}")
    shared_client.started(f"hold {gate}")
    waiting, job, _ = shared_client.ask("echo unwanted")
    shared_client.queued(1)
    job.cancel()
    with pytest.raises(CancelledError):
        waiting.result(LIMIT_S)
    shared_client.queued(0)
    gate.touch()
    blocking.result(LIMIT_S)
    assert "start echo unwanted" not in shared_client.lines()


def test_errors_come_back_with_their_type(shared_client: Client, gate: Path) -> None:
    with pytest.raises(PromptError, match="9 tokens") as caught:
        shared_client.now("prompt too long")
    assert caught.value.hint == "Shorten it."
    with pytest.raises(AnalysisError, match="Something went wrong inside"):
        shared_client.now("bug")
    answer, _, _ = shared_client.ask(f"hold {gate}", deadline_s=0.3)
    with pytest.raises(DeadlineError, match=r"0\.3 seconds"):
        answer.result(LIMIT_S)
    assert shared_client.now("echo after") == "echo after"


@pytest.mark.parametrize(
    "damage",
    [
        b"\xff",
        b"[1]",
        b'{"status": "PROGRESS", "result": {"done": "soon"}}',
        b'{"status": "FAILURE", "result": {"exc_type": "system", "exc_module": "os"}}',
    ],
)
def test_a_damaged_state_in_redis_affects_one_request_only(
    shared_worker: tuple[str, Path], shared_client: Client, gate: Path, damage: bytes
) -> None:
    running, _, _ = shared_client.ask(f"hold {gate}")
    shared_client.started(f"hold {gate}")
    waiting, _, _ = shared_client.ask(f"echo {damage!r}")
    shared_client.queued(1)
    with redis.Redis.from_url(shared_worker[0]) as database:
        names = database.keys("stratascope:celery:celery-task-meta-*")
        for _ in range(20):
            for name in names:
                database.set(name, damage)
    gate.touch()
    assert waiting.result(LIMIT_S) == f"echo {damage!r}"
    assert shared_client.now(f"echo after {damage!r}") == f"echo after {damage!r}"
    with suppress(AnalysisError):
        running.result(LIMIT_S)


def test_a_full_queue_refuses_with_a_message(open_client: Callable[..., Client]) -> None:
    client = open_client()
    client.remote._max_queue = 1
    _, job, _ = client.ask("echo waits", user="first")
    client.queued(1)
    with pytest.raises(BusyError, match="Too many requests"):
        client.now("echo refused", user="second")
    with pytest.raises(BusyError, match="Too many of your requests"):
        client.now("echo refused", user="first")
    job.cancel()
    client.queued(0)


def test_a_request_that_killed_two_model_workers_is_refused_everywhere(
    shared_clients: tuple[Client, Client],
) -> None:
    first, second = shared_clients
    for asked in (first, second):
        with pytest.raises(WorkerStoppedError, match="stopped while it worked on this"):
            asked.now("crash now")
    with pytest.raises(WorkerStoppedError, match="2 times"):
        second.now("crash now")
    assert first.lines().count("start crash now") == 2
    assert first.now("echo alive") == "echo alive"


def test_a_stopping_worker_finishes_a_click_and_returns_long_work(
    start_worker: StartWorker, client: Client
) -> None:
    leaving = start_worker("leaving")
    gate, other = client.folder / "gate", client.folder / "other"
    long, _, _ = client.ask(f"long {other}", priority=Priority.LONG)
    client.started(f"long {other}")
    click, _, _ = client.ask(f"hold {gate}")
    client.started(f"hold {gate}")
    (model,) = leaving.children()
    leaving.process.terminate()
    wait_for(lambda: client.remote.queued == 1)  # the long one is back, the click still runs
    gate.touch()
    assert click.result(LIMIT_S) == f"hold {gate}"
    assert leaving.process.wait(LIMIT_S) == 0
    assert not model.is_running()
    start_worker("staying")
    client.started(f"long {other}", times=2)
    other.touch()
    assert long.result(LIMIT_S) == f"long {other}"


class Bomb:
    """An object that runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.path,))


def test_pickle_planted_in_redis_is_never_opened(
    start_worker: StartWorker, client: Client, redis_server: RedisServer, tmp_path: Path
) -> None:
    from analysis.scale.app import QUEUES, TASK, make_app
    from tests.support.scaled import settings

    blown = tmp_path / "blown"
    app = make_app(settings(redis_server.url))
    with app.connection_for_write() as connection:
        producer = app.amqp.Producer(connection)
        for queue in QUEUES:
            message = app.amqp.create_task_message("x", TASK, (Bomb(blown),), {})
            producer.publish(
                message.body, routing_key=queue, headers=message.headers, serializer="pickle",
                **message.properties,
            )  # fmt: skip
    app.close()
    database = redis_server.client()
    database.set("stratascope:result:echo x", pickle.dumps(Bomb(blown)))
    asked, _, _ = client.ask("echo y")
    wait_for(lambda: database.get("stratascope:lock:echo y"))
    task = database.get("stratascope:lock:echo y").decode()
    planted = f"stratascope:celery:celery-task-meta-{task}"
    database.set(planted, pickle.dumps({"status": "SUCCESS", "result": Bomb(blown)}))
    start_worker()
    assert client.remote.find("echo x") is None
    assert client.now("echo x") == "echo x"
    assert asked.result(LIMIT_S) == "echo y"
    assert client.now("echo long", priority=Priority.LONG) == "echo long"
    assert not blown.exists()
    database.close()
