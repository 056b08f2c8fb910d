"""Requests through Redis to a Celery worker: order, sharing, cancel, progress, refusals.

Nothing here is timed: each step waits for the event it needs, with a generous limit.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
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
from tests.support.scaled import LIMIT_S, Bureau, WorkerHost, wait_for

Hire = Callable[..., WorkerHost]


def test_answers_are_shared_by_all_web_processes_and_kept(
    desks: tuple[Bureau, Bureau], gate: Path
) -> None:
    first, second = desks
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


def test_a_click_goes_before_long_work_and_into_the_midst_of_it(desk: Bureau, gate: Path) -> None:
    long, _, heard = desk.ask(f"long {gate}", priority=Priority.LONG)
    desk.started(f"long {gate}")
    later, _, waiting = desk.ask("echo a suite", priority=Priority.LONG)
    desk.queued(1)
    assert desk.now("echo click") == "echo click"
    assert not long.done()
    wait_for(lambda: waiting and waiting[-1].queue_position == 1)
    gate.touch()
    assert long.result(LIMIT_S) == f"long {gate}"
    assert later.result(LIMIT_S) == "echo a suite"
    assert any(progress.label == "long" for progress in heard)


def test_each_user_has_a_turn_and_sees_the_place_in_the_queue(desk: Bureau, gate: Path) -> None:
    blocking, _, _ = desk.ask(f"hold {gate}", user="other")
    desk.started(f"hold {gate}")
    asked = []
    for count, (user, text) in enumerate(
        [
            ("greedy", "echo turn g1"),
            ("greedy", "echo turn g2"),
            ("greedy", "echo turn g3"),
            ("late", "echo turn l1"),
        ]
    ):
        asked.append(desk.ask(text, user=user))
        desk.queued(count + 1)
    for (_, _, heard), place in zip(asked, [1, 3, 4, 2], strict=True):
        wait_for(lambda heard=heard, place=place: heard and heard[-1].queue_position == place)
    gate.touch()
    blocking.result(LIMIT_S)
    for answer, _, _ in asked:
        answer.result(LIMIT_S)
    started = [line for line in desk.lines() if line.startswith("start echo turn")]
    assert started == [f"start echo turn {name}" for name in ("g1", "l1", "g2", "g3")]


def test_cancelling_stops_what_nobody_else_wants(desk: Bureau, gate: Path) -> None:
    text = f"hold {gate}"
    mine, my_job, _ = desk.ask(text)
    theirs, their_job, _ = desk.ask(text)
    desk.started(text)
    my_job.cancel()
    with pytest.raises(CancelledError):
        mine.result(LIMIT_S)
    assert not theirs.done()
    their_job.cancel()
    with pytest.raises(CancelledError):
        theirs.result(LIMIT_S)
    assert desk.now("echo next") == "echo next"
    assert f"end {text}" not in desk.lines()


def test_what_is_cancelled_in_the_queue_is_never_begun(desk: Bureau, gate: Path) -> None:
    blocking, _, _ = desk.ask(f"hold {gate}")
    desk.started(f"hold {gate}")
    waiting, job, _ = desk.ask("echo unwanted")
    desk.queued(1)
    job.cancel()
    with pytest.raises(CancelledError):
        waiting.result(LIMIT_S)
    desk.queued(0)
    gate.touch()
    blocking.result(LIMIT_S)
    assert "start echo unwanted" not in desk.lines()


def test_errors_come_back_with_their_type(desk: Bureau, gate: Path) -> None:
    with pytest.raises(PromptError, match="9 tokens") as caught:
        desk.now("prompt too long")
    assert caught.value.hint == "Shorten it."
    with pytest.raises(AnalysisError, match="Something went wrong inside"):
        desk.now("bug")
    answer, _, _ = desk.ask(f"hold {gate}", deadline_s=0.3)
    with pytest.raises(DeadlineError, match=r"0\.3 seconds"):
        answer.result(LIMIT_S)
    assert desk.now("echo after") == "echo after"


@pytest.mark.parametrize(("field", "value"), [("seconds", b"soon"), ("beat", b"\xff")])
def test_what_is_no_number_in_redis_costs_nobody_an_answer(
    company: tuple[str, Path], desk: Bureau, gate: Path, field: str, value: bytes
) -> None:
    blocking, _, _ = desk.ask(f"hold {gate}")
    desk.started(f"hold {gate}")
    text = f"echo damaged {field}"
    damaged, _, _ = desk.ask(text)
    desk.queued(1)
    with redis.Redis.from_url(company[0]) as client:
        client.hset(f"stratascope:flight:{text}", field, value)
        heard = desk.remote._watcher._heard_at
        wait_for(lambda: desk.remote._watcher._heard_at > heard)
    gate.touch()
    assert blocking.result(LIMIT_S) == f"hold {gate}"
    assert damaged.result(LIMIT_S) == text
    assert desk.now("echo afterwards") == "echo afterwards"


def test_a_full_queue_refuses_with_a_sentence(open_bureau: Callable[..., Bureau]) -> None:
    bureau = open_bureau()
    bureau.remote._max_queue = 1
    _, job, _ = bureau.ask("echo waits")
    bureau.queued(1)
    with pytest.raises(BusyError, match="Too many requests"):
        bureau.now("echo refused")
    job.cancel()
    bureau.queued(0)


def test_a_request_that_killed_two_model_workers_is_refused_everywhere(
    desks: tuple[Bureau, Bureau],
) -> None:
    first, second = desks
    for asked in (first, second):
        with pytest.raises(WorkerStoppedError, match="stopped while it worked on this"):
            asked.now("crash now")
    with pytest.raises(WorkerStoppedError, match="2 times"):
        second.now("crash now")
    assert first.lines().count("start crash now") == 2
    assert first.now("echo alive") == "echo alive"


def test_a_worker_told_to_stop_finishes_a_click_and_returns_long_work(
    hire: Hire, bureau: Bureau
) -> None:
    leaving = hire("leaving")
    gate, other = bureau.folder / "gate", bureau.folder / "other"
    long, _, _ = bureau.ask(f"long {other}", priority=Priority.LONG)
    bureau.started(f"long {other}")
    click, _, _ = bureau.ask(f"hold {gate}")
    bureau.started(f"hold {gate}")
    (model,) = leaving.children()
    leaving.process.terminate()
    wait_for(lambda: bureau.remote.queued == 1)  # the long one is back, the click still runs
    gate.touch()
    assert click.result(LIMIT_S) == f"hold {gate}"
    assert leaving.process.wait(LIMIT_S) == 0
    assert not model.is_running()
    hire("staying")
    bureau.started(f"long {other}", times=2)
    other.touch()
    assert long.result(LIMIT_S) == f"long {other}"


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.path,))


def test_pickle_planted_in_redis_is_never_opened(
    hire: Hire, bureau: Bureau, redis_server: RedisServer, tmp_path: Path
) -> None:
    from analysis.scale.celery_app import QUEUE, TASK, make_app
    from tests.support.scaled import settings

    blown = tmp_path / "blown"
    app = make_app(settings(redis_server.url))
    with app.connection_for_write() as connection:
        producer = app.amqp.Producer(connection)
        message = app.amqp.create_task_message("x", TASK, (Bomb(blown),), {})
        producer.publish(
            message.body, routing_key=QUEUE, headers=message.headers, serializer="pickle",
            **message.properties,
        )  # fmt: skip
    app.close()
    client = redis_server.client()
    client.set("stratascope:result:echo x", pickle.dumps(Bomb(blown)))
    client.close()
    hire()
    assert bureau.remote.find("echo x") is None
    assert bureau.now("echo x") == "echo x"
    assert not blown.exists()
