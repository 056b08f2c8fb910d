"""Background callbacks through a real Dash app: contract with Dash, results, cancel, errors."""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dash
import numpy as np
import pytest
from dash import Dash, DiskcacheManager, Input, Output, dcc, html, no_update, set_props
from dash._get_app import app_context
from dash.background_callback.managers import BaseBackgroundCallbackManager, diskcache_manager
from flask import request

from analysis.contract.jobs import Progress, current_user
from analysis.errors import AnalysisError, CancelledError, PromptError, WorkerStoppedError
from dash_app import monitoring
from dash_app.errors import original_error
from dash_app.jobs import job_and_draw as progress_module
from dash_app.jobs.manager import JobManager, current_background
from tests.support.dash_client import DashClient
from tests.support.scaled import LIMIT_S, wait_for

Work = Callable[..., Any]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[JobManager]:
    made = JobManager(tmp_path / "jobs")
    yield made
    made.close()


def make_app(manager: JobManager, work: Work, *, on_error: Any = None) -> Dash:
    """An app with one background callback ``out.data <- in.data`` that does ``work``."""
    app_context.set(None)  # Dash leaves the app that served a page last, here of another test
    app = Dash("tests", background_callback_manager=manager, on_error=on_error)
    app.server.secret_key = "a key for tests"  # noqa: S105
    app.layout = html.Div(
        [dcc.Store("in"), dcc.Store("out"), dcc.Store("stop"), dcc.Store("alert"), html.P(id="say")]
    )

    @app.callback(
        Output("out", "data"),
        Input("in", "data"),
        background=True,
        progress=[Output("say", "style"), Output("say", "children")],
        cancel=[Input("stop", "data")],
    )
    def callback(set_progress: Any, value: Any) -> Any:
        return work(set_progress, value)

    return app


def until_stopped(stopped: Mapping[Any, threading.Event]) -> Work:
    """Work that runs until it is cancelled and then sets an event."""

    def work(_: Any, value: Any) -> Any:
        job = progress_module.current_job()
        with job.waking(stopped[value].set):
            if job.cancelled():  # before it began
                stopped[value].set()
            assert stopped[value].wait(LIMIT_S)

    return work


def outcome(client: DashClient, value: Any) -> Any:
    handles = client.start("out.data", {"in.data": value})
    response, _ = client.finish("out.data", {"in.data": value}, handles)
    return response.get_json()["response"]["out"]["data"]


def test_the_manager_overrides_every_method_of_the_stock_manager() -> None:
    """A new method in Dash's manager would use a cache that ours does not have."""
    stock = {
        name
        for name, _ in inspect.getmembers(DiskcacheManager, inspect.isfunction)
        if not name.startswith("__")
    }
    inherited = {
        "_make_progress_key", "_make_set_props_key", "_run_async_in_process", "hash_function",
        "register", "register_func",
    }  # fmt: skip
    assert stock - inherited == {name for name in stock if name in vars(JobManager)}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("call_job_fn", ["self", "key", "job_fn", "args", "context"]),
        ("get_result", ["self", "key", "job"]),
        ("make_job_fn", ["self", "fn", "progress", "key"]),
        ("build_cache_key", ["self", "fn", "args", "cache_args_to_ignore", "triggered"]),
    ],
)
def test_dash_calls_the_manager_as_it_did(name: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(DiskcacheManager, name)).parameters) == parameters


def test_dash_reads_errors_and_missing_updates_from_our_results() -> None:
    source = inspect.getsource(diskcache_manager) + inspect.getsource(dash._callback)
    assert '"background_callback_error"' in source
    assert '"_dash_no_update"' in source


def test_a_result_with_numpy_and_components_comes_back_as_json(manager: JobManager) -> None:
    app = make_app(manager, lambda _, value: {"z": np.arange(3), "text": html.B(value)})
    data = outcome(DashClient(app), "x")
    assert data["z"] == [0, 1, 2]
    assert data["text"]["type"] == "B"


def test_two_users_with_equal_arguments_both_get_their_results(manager: JobManager) -> None:
    gate = threading.Barrier(8, timeout=LIMIT_S)
    counted = iter(range(8))

    def work(_: Any, value: Any) -> Any:
        gate.wait()
        return [value, next(counted)]

    app = make_app(manager, work)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: outcome(DashClient(app), "same"), range(8)))
    assert sorted(results) == [["same", number] for number in range(8)]


def test_progress_arrives_and_a_result_can_be_fetched_once(manager: JobManager) -> None:
    seen = threading.Event()

    def work(set_progress: Any, value: Any) -> Any:
        job = progress_module.stages(set_progress)(0.5, 1.0)
        job.report(Progress(1, 2, "Forward pass"))
        assert seen.wait(LIMIT_S)
        return value

    client = DashClient(make_app(manager, work))
    handles = client.start("out.data", {"in.data": 1})
    shown: dict[str, Any] = {}

    def told() -> bool:
        shown.update(client.poll("out.data", {"in.data": 1}, handles).get_json())
        return "progress" in shown

    wait_for(told)
    assert shown["progress"] == {
        "say.style": {"width": "75%"},
        "say.children": "Forward pass (1 of 2)",
    }
    seen.set()
    response, _ = client.finish("out.data", {"in.data": 1}, handles)
    assert response.get_json()["response"]["out"]["data"] == 1
    assert client.poll("out.data", {"in.data": 1}, handles).status_code == 204


def test_cancel_reaches_the_jobs_of_the_callback(manager: JobManager) -> None:
    started, ended = threading.Event(), threading.Event()

    def work(_: Any, value: Any) -> Any:
        first = progress_module.current_job()
        stop = threading.Event()
        with first.waking(stop.set):
            started.set()
            assert stop.wait(LIMIT_S)
        later = progress_module.current_job()
        with pytest.raises(CancelledError):
            later.check()
        ended.set()
        first.check()

    client = DashClient(make_app(manager, work))
    handles = client.start("out.data", {"in.data": 1})
    assert started.wait(LIMIT_S)
    client.call("stop.id", {"stop.data": 1}, cancelJob=handles["job"])
    assert ended.wait(LIMIT_S)
    assert client.poll("out.data", {"in.data": 1}, handles).status_code == 204


def test_a_newer_request_cancels_the_older_of_the_same_page(manager: JobManager) -> None:
    asked: list[Any] = []
    started = threading.Event()

    def work(_: Any, value: Any) -> Any:
        job = progress_module.current_job()
        asked.append(job)
        if value == "old":
            stop = threading.Event()
            with job.waking(stop.set):
                started.set()
                assert stop.wait(LIMIT_S)
        return value

    client = DashClient(make_app(manager, work))
    old = client.start("out.data", {"in.data": "old"})
    assert started.wait(LIMIT_S)
    new = client.start("out.data", {"in.data": "new"}, oldJob=old["job"])
    response, _ = client.finish("out.data", {"in.data": "new"}, new)
    assert response.get_json()["response"]["out"]["data"] == "new"
    assert asked[0].cancelled()


def test_a_forged_or_foreign_handle_has_no_effect(manager: JobManager) -> None:
    done = threading.Event()

    def work(_: Any, value: Any) -> Any:
        job = progress_module.current_job()
        assert done.wait(LIMIT_S)
        return "cancelled" if job.cancelled() else value

    app = make_app(manager, work)
    mine, theirs = DashClient(app), DashClient(app)
    handles = mine.start("out.data", {"in.data": "secret"})
    theirs.call("stop.id", {"stop.data": 1}, cancelJob=handles["job"])
    done.set()
    assert theirs.poll("out.data", {"in.data": "secret"}, handles).status_code == 204
    response, _ = mine.finish("out.data", {"in.data": "secret"}, handles)
    assert response.get_json()["response"]["out"]["data"] == "secret"


@pytest.mark.parametrize("error", [PromptError("Too long.", "Shorten it."), RuntimeError("secret")])
def test_errors_reach_the_apps_handler_with_type_and_without_trace(
    manager: JobManager, error: Exception
) -> None:
    raised: list[BaseException] = []

    def handler(problem: Exception) -> Any:
        raised.append(original_error(problem))
        set_props("alert", {"data": str(raised[-1])})
        return no_update

    def work(_: Any, value: Any) -> Any:
        raise error

    client = DashClient(make_app(manager, work, on_error=handler))
    handles = client.start("out.data", {"in.data": 1})
    response, _ = client.finish("out.data", {"in.data": 1}, handles)
    said = response.get_json()["sideUpdate"]["alert"]["data"]
    expected = type(error) if isinstance(error, AnalysisError) else AnalysisError
    assert type(raised[0]) is expected
    assert "secret" not in said
    assert "Traceback" not in said


def test_set_props_of_several_components_all_arrive(manager: JobManager) -> None:
    def work(_: Any, value: Any) -> Any:
        set_props("alert", {"data": "first"})
        set_props("say", {"title": "second"})
        return value

    client = DashClient(make_app(manager, work))
    handles = client.start("out.data", {"in.data": 1})
    seen: dict[str, Any] = {}

    def done() -> bool:
        data = client.finish("out.data", {"in.data": 1}, handles)[0].get_json()
        seen.update(data.get("sideUpdate", {}) | data.get("response", {}))
        return "out" in seen

    wait_for(done)
    assert seen["alert"] == {"data": "first"}
    assert seen["say"] == {"title": "second"}


def test_after_a_restart_the_page_asks_to_run_again(tmp_path: Path) -> None:
    errors: list[Exception] = []
    gate = threading.Event()

    def work(_: Any, value: Any) -> Any:
        assert gate.wait(LIMIT_S)

    before = JobManager(tmp_path / "jobs")
    client = DashClient(make_app(before, work))
    handles = client.start("out.data", {"in.data": 1})
    after = JobManager(tmp_path / "jobs2")
    again = DashClient(make_app(after, work, on_error=errors.append))
    again.end_id = client.end_id
    again.poll("out.data", {"in.data": 1}, handles)
    gate.set()
    before.close()
    after.close()
    assert isinstance(original_error(errors[0]), WorkerStoppedError)


def test_a_second_app_does_not_take_over_the_firsts_callbacks(tmp_path: Path) -> None:
    managers = [JobManager(tmp_path / name) for name in "ab"]
    apps = []
    for number, manager in enumerate(managers):
        apps.append(make_app(manager, lambda _, value, number=number: [number, value]))
    assert [outcome(DashClient(app), "x") for app in apps] == [[0, "x"], [1, "x"]]
    for manager in managers:
        manager.close()
        assert manager not in BaseBackgroundCallbackManager.managers


def test_too_many_jobs_are_refused_with_a_sentence(tmp_path: Path) -> None:
    gate = threading.Event()
    errors: list[Exception] = []

    def work(_: Any, value: Any) -> Any:
        assert gate.wait(LIMIT_S)
        return value

    def handler(error: Exception) -> Any:
        errors.append(original_error(error))
        set_props("alert", {"data": "busy"})

    manager = JobManager(tmp_path / "jobs", max_jobs=1)
    client = DashClient(make_app(manager, work, on_error=handler))
    first = client.start("out.data", {"in.data": 1})
    second = client.start("out.data", {"in.data": 2})
    client.finish("out.data", {"in.data": 2}, second)
    gate.set()
    client.finish("out.data", {"in.data": 1}, first)
    manager.close()
    assert type(errors[0]).__name__ == "BusyError"


def test_one_user_cannot_take_every_job(tmp_path: Path) -> None:
    gate = threading.Event()

    def work(_: Any, value: Any) -> Any:
        assert gate.wait(LIMIT_S)
        return value

    manager = JobManager(tmp_path / "jobs", max_jobs=8)
    app = make_app(manager, work, on_error=lambda _: set_props("alert", {"data": "busy"}))
    who = "alice"
    app.server.before_request(lambda: current_user.set(f"user:{who}") and None)

    for number in range(12):
        DashClient(app).start("out.data", {"in.data": number})
    who = "ben"
    client = DashClient(app)
    handles = client.start("out.data", {"in.data": "mine"})
    gate.set()
    response, _ = client.finish("out.data", {"in.data": "mine"}, handles)
    assert response.get_json()["response"]["out"]["data"] == "mine"
    manager.close()


def test_a_page_is_one_user_in_background_and_plain_callbacks(manager: JobManager) -> None:
    app = make_app(manager, lambda _, value: progress_module.current_job().user)

    @app.callback(Output("say", "title"), Input("alert", "data"))
    def plain(_: Any) -> str:
        assert current_background.get() is None
        return current_user.get()

    @app.server.before_request
    def identify() -> None:
        current_user.set(monitoring.page_key(request.args.get("endId", "")))

    first, second = DashClient(app), DashClient(app)
    mine = outcome(first, 1)
    shown = first.call("say.title", {"alert.data": 1}).get_json()["response"]["say"]["title"]
    assert re.fullmatch("[0-9a-f]{16}", mine)
    assert mine == shown
    assert outcome(second, 1) != mine


def test_results_wait_in_memory_where_the_folder_cant_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    manager = JobManager(tmp_path / "file" / "jobs")
    assert outcome(DashClient(make_app(manager, lambda _, value: value)), "kept") == "kept"
    manager.close()


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (Progress(0, 0, "Waiting", 1), "Waiting for 1 earlier request"),
        (Progress(0, 0, "Waiting", 3), "Waiting for 3 earlier requests"),
        (Progress(4, 30, "Forward pass"), "Forward pass (4 of 30)"),
        (Progress(0, 0, "Starting"), "Starting"),
    ],
)
def test_captions_describe_the_current_work(progress: Progress, text: str) -> None:
    assert progress_module.caption(progress) == text


def test_a_new_request_of_a_page_ends_its_older_one(manager: JobManager) -> None:
    stopped = {value: threading.Event() for value in range(5)}

    app = make_app(manager, until_stopped(stopped))
    page, other = DashClient(app), DashClient(app)
    for client, value, turn in ((other, 0, 9), (page, 1, 3), (page, 2, 5), (page, 3, 4)):
        client.start("out.data", {"in.data": value}, turn=turn)
    states = [running.state for running in manager._jobs.values()]
    assert states == ["running", "cancelled", "running", "cancelled"]  # the last came late
    assert all(stopped[value].wait(LIMIT_S) for value in (1, 3))
    page.start("out.data", {"in.data": 4}, turn="x")  # without a number: it ends nothing
    assert [running.state for running in manager._jobs.values()][2] == "running"
