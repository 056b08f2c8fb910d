"""A run started by one web process, polled and cancelled through another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dash import Dash, set_props
from flask import g

from analysis.errors import WorkerStoppedError
from dash_app.errors import original_error
from dash_app.jobs import job_and_draw
from dash_app.jobs.shared_manager import SharedJobManager
from tests.support.dash_client import DashClient
from tests.support.redis import RedisServer
from tests.support.scaled import LIMIT_S, settings, wait_for
from tests.wiring.jobs.test_background_callbacks import make_app, until_stopped

Make = Callable[..., tuple[Dash, SharedJobManager]]
ASKED = {"in.data": 1}


@pytest.fixture
def process(redis_server: RedisServer) -> Iterator[Make]:
    """Create the app and manager of a web process for some work."""
    managers: list[SharedJobManager] = []

    def make(work: Any, **options: Any) -> tuple[Dash, SharedJobManager]:
        managers.append(SharedJobManager(settings(redis_server.url)))
        return make_app(managers[-1], work, **options), managers[-1]

    yield make
    wait_for(lambda: not working())  # work that ends after the close would open a connection again
    for manager in managers:
        manager.close()


def working() -> list[str]:
    """Names of the threads in which jobs still run."""
    names = (thread.name for thread in threading.enumerate())
    return [name for name in names if name.startswith("job-") and name != "job-heart"]


def pages(*apps: Dash) -> list[DashClient]:
    """One page that reaches all of these processes."""
    clients = [DashClient(app) for app in apps]
    for client in clients:
        client.end_id = clients[0].end_id
    return clients


def idle(_: Any, value: Any) -> Any:
    raise AssertionError(f"this process was not asked to work on {value}")


def test_progress_props_and_result_reach_the_page_through_another_process(process: Make) -> None:
    seen = threading.Event()

    def work(set_progress: Any, value: Any) -> Any:
        set_progress([{"width": "50%"}, "half"])
        set_props("alert", {"data": "told"})
        set_props("alert", {"title": "twice"})
        assert seen.wait(LIMIT_S)
        return {"value": value}

    here, there = pages(process(work)[0], process(idle)[0])
    handles = here.start("out.data", ASKED)
    shown: dict[str, Any] = {}

    def told() -> bool:
        shown.update(there.poll("out.data", ASKED, handles).get_json())
        return "progress" in shown and "sideUpdate" in shown

    wait_for(told)
    assert shown["progress"]["say.children"] == "half"
    assert shown["sideUpdate"]["alert"] == {"data": "told", "title": "twice"}
    seen.set()
    response, _ = there.finish("out.data", ASKED, handles)
    assert response.get_json()["response"]["out"]["data"] == {"value": 1}
    assert here.poll("out.data", ASKED, handles).status_code == 204


@pytest.mark.parametrize("late", [False, True])
def test_a_new_request_of_a_page_ends_the_older_one_in_another_process(
    process: Make, late: bool
) -> None:
    stopped = {value: threading.Event() for value in range(3)}

    work = until_stopped(stopped)
    here, there = pages(process(work)[0], process(work)[0])
    other = DashClient(process(work)[0])
    other.start("out.data", {"in.data": 0}, turn=9)
    here.start("out.data", {"in.data": 1}, turn=2 if late else 1)
    there.start("out.data", {"in.data": 2}, turn=1 if late else 2)
    assert stopped[2 if late else 1].wait(LIMIT_S)
    assert not stopped[1 if late else 2].is_set()
    assert not stopped[0].is_set()
    for event in stopped.values():
        event.set()


def test_a_cancel_reaches_the_process_that_works(process: Make) -> None:
    started, ended = threading.Event(), threading.Event()

    def work(_: Any, value: Any) -> Any:
        stop = threading.Event()
        with job_and_draw.current_job().waking(stop.set):
            started.set()
            assert stop.wait(LIMIT_S)
        ended.set()

    here, there = pages(process(work)[0], process(idle)[0])
    handles = here.start("out.data", ASKED)
    assert started.wait(LIMIT_S)
    there.call("stop.id", {"stop.data": 1}, cancelJob=handles["job"])
    assert ended.wait(LIMIT_S)
    assert here.poll("out.data", ASKED, handles).status_code == 204


def test_the_page_is_told_that_the_process_ended(process: Make, redis_server: RedisServer) -> None:
    errors: list[Exception] = []
    gate = threading.Event()

    def work(_: Any, value: Any) -> Any:
        assert gate.wait(LIMIT_S)

    app, manager = process(work)
    here, there = pages(app, process(idle, on_error=errors.append)[0])
    handles = here.start("out.data", ASKED)
    assert "response" not in there.poll("out.data", ASKED, handles).get_json()
    manager._closing.set()  # as if it were killed: it stores no state any more
    manager._heart.join()
    client = redis_server.client()
    client.delete(f"stratascope:web:{manager._owner}")
    client.close()
    there.poll("out.data", ASKED, handles)
    gate.set()
    assert isinstance(original_error(errors[0]), WorkerStoppedError)


def test_losing_all_redis_data_costs_no_result(process: Make, redis_server: RedisServer) -> None:
    gate = threading.Event()

    def work(_: Any, value: Any) -> Any:
        assert gate.wait(LIMIT_S)
        return "kept"

    here, there = pages(process(work)[0], process(idle)[0])
    handles = here.start("out.data", ASKED)
    redis_server.kill()
    assert "response" not in here.poll("out.data", ASKED, handles).get_json()
    redis_server.start()
    assert "response" not in there.poll("out.data", ASKED, handles).get_json()
    gate.set()
    response, _ = there.finish("out.data", ASKED, handles)
    assert response.get_json()["response"]["out"]["data"] == "kept"


def test_a_foreign_page_reads_and_cancels_nothing(process: Make) -> None:
    done = threading.Event()

    def work(_: Any, value: Any) -> Any:
        job = job_and_draw.current_job()
        assert done.wait(LIMIT_S)
        return "cancelled" if job.cancelled() else value

    mine, elsewhere = process(work)[0], process(idle)[0]
    page, foreign = DashClient(mine), DashClient(elsewhere)
    handles = page.start("out.data", ASKED)
    foreign.call("stop.id", {"stop.data": 1}, cancelJob=handles["job"])
    assert foreign.poll("out.data", ASKED, handles).status_code == 204
    done.set()
    response, _ = page.finish("out.data", ASKED, handles)
    assert response.get_json()["response"]["out"]["data"] == 1


def test_a_stopping_process_finishes_runs(process: Make) -> None:
    gate, started = threading.Event(), threading.Event()

    def work(_: Any, value: Any) -> Any:
        started.set()
        assert gate.wait(LIMIT_S)
        return "finished"

    app, manager = process(work)
    (page,) = pages(app)
    handles = page.start("out.data", ASKED)
    assert started.wait(LIMIT_S)
    draining = threading.Thread(target=manager.drain, args=(LIMIT_S, LIMIT_S))
    draining.start()
    gate.set()
    response, _ = page.finish("out.data", ASKED, handles)
    draining.join(LIMIT_S)
    assert not draining.is_alive()
    assert response.get_json()["response"]["out"]["data"] == "finished"


def test_a_stopping_process_starts_nothing(process: Make) -> None:
    errors: list[Exception] = []
    app, manager = process(idle, on_error=errors.append)
    (page,) = pages(app)
    manager.drain(0.0, 0.0)
    page.finish("out.data", ASKED, page.start("out.data", ASKED))
    assert "shutting down" in str(original_error(errors[0]))


def test_a_run_that_a_stopped_process_left_is_lost_until_a_page_starts_it_again(
    process: Make,
) -> None:
    gate, started = threading.Event(), threading.Event()

    def work(_: Any, value: Any) -> Any:
        started.set()
        assert gate.wait(LIMIT_S)
        return "too late"

    first, stopping = process(work)
    second, manager = process(lambda _, value: f"again {value}")
    (page,) = pages(first)
    handles = page.start("out.data", ASKED)
    key = handles["cacheKey"].rpartition("~")[0]
    assert started.wait(LIMIT_S)
    stopping.drain(0.0, 0.0)
    assert not manager.is_lost(key)  # its process still lives
    stopping.close()
    wait_for(lambda: manager.is_lost(key))
    gate.set()
    wait_for(lambda: not working())  # the end of the lost work changes nothing
    assert manager.is_lost(key)
    with second.server.test_request_context():
        g.again = key
        assert manager.build_cache_key(lambda: None) == key


def test_a_job_that_ends_during_closing_is_not_a_defect(process: Make) -> None:
    def closed() -> None:
        raise ValueError("I/O operation on closed file.")

    _, manager = process(idle)
    with pytest.raises(ValueError, match="closed file"):
        manager._guarded(closed)
    manager._closing.set()
    assert manager._guarded(closed) is None
