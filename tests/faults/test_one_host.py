"""Faults on one machine with the small real model: model process, web process, disk.

Requests go through gunicorn over HTTP, like those of a page.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from analysis.contract.jobs import Job, Progress
from analysis.errors import WorkerStoppedError
from analysis.service import Service
from analysis.tasks.suite_specs import SuiteSpec
from analysis.tracing.specs import RunSpec
from analysis.worker.messages import ServiceSettings
from tests.support.dash_page import Page, PageError
from tests.support.scaled import LIMIT_S, kill_the_worker, wait_for
from tests.support.servers import Servers

pytestmark = [pytest.mark.full, pytest.mark.real]

MODEL = "addition-5digit"
PROMPT = "54321+12345="
Recovery = Callable[[str], AbstractContextManager[None]]
Open = Callable[..., Page]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    """gunicorn with a model worker, which the tests may stop for as long as they need."""
    patient = {"WORKER_SILENCE_S": "3600", "GRACE_S": "5"}
    with Servers(tmp_path, DEFAULT_MODEL=MODEL, **patient) as running:
        yield running


@pytest.fixture
def visit(servers: Servers) -> Iterator[Open]:
    """Open a page and wait until it is drawn."""
    pages: list[Page] = []

    def start(search: str = "", url: str = "") -> Page:
        pages.append(Page(url or servers.url))
        pages[-1].open(search)
        return pages[-1]

    yield start
    for page in pages:
        page.close()


def begin(page: Page, prompt: str = PROMPT) -> None:
    """Press Run and wait until the run starts."""
    page.ask(prompt, 6)
    page.begin("run-last.data")


def finished(page: Page) -> Any:
    """The prompt of the run in the page's last response."""
    return ((page.props.get("status.data") or {}).get("run") or {}).get("prompt")


def shown(page: Page) -> Any:
    """The prompt of the displayed run."""
    return (page.props.get("run.data") or {}).get("prompt")


def test_the_model_worker_is_killed_during_a_suite(tmp_path: Path, recovery: Recovery) -> None:
    spec = SuiteSpec(MODEL, "addition", size=500)
    heard: list[Progress] = []
    with Service(ServiceSettings(cache_dir=tmp_path)) as service, ThreadPoolExecutor(2) as pool:
        suite = pool.submit(service.ask, spec.model, spec, Job(user="a", on_progress=heard.append))
        wait_for(lambda: any(progress.done > 1 for progress in heard))
        click = RunSpec(MODEL, PROMPT, new_tokens=6)
        with recovery("model worker killed in a suite: its user is told"):
            kill_the_worker(service)
            with pytest.raises(WorkerStoppedError, match="stopped while it worked on this"):
                suite.result(LIMIT_S)
        with recovery("model worker killed in a suite: another user's run, model loaded anew"):
            assert service.ask(click.model, click, Job(user="b")).tokens
        with recovery("model worker killed in a suite: the same suite, again"):
            assert len(service.ask(spec.model, spec, Job(user="a")).prompts) == spec.size


def test_a_waiting_run_survives_a_killed_model_worker(
    servers: Servers, visit: Open, recovery: Recovery
) -> None:
    page = visit()
    model = servers.model()
    model.suspend()
    begin(page)
    with recovery("model worker killed before a run began: it is run all the same"):
        model.kill()
        page.settle()
    assert (shown(page), page.told()) == (PROMPT, "")


def test_the_web_process_is_killed_during_a_run(
    servers: Servers, visit: Open, recovery: Recovery
) -> None:
    page = visit()
    model = servers.model()
    model.suspend()
    begin(page)
    with recovery("web process killed: gunicorn has another, the page is told"):
        servers.web_process().kill()
        model.resume()
        page.settle()
    assert "server was restarted while it worked on this" in page.told()
    assert page.props["run-prompt.value"] == PROMPT
    wait_for(lambda: not model.is_running())
    with recovery("web process killed: the same run, again"):
        page.run(PROMPT, 6)
    assert (shown(page), page.told()) == (PROMPT, "")


def test_a_stopping_server_finishes_running_work_and_ends_its_processes(
    servers: Servers, visit: Open, recovery: Recovery
) -> None:
    page, late = visit(), visit()
    everything = servers.everything()
    model = servers.model()
    model.suspend()
    begin(page)
    os.kill(servers.processes["web"].pid, signal.SIGTERM)
    wait_for(lambda: refused(late))
    model.resume()
    with recovery("told to stop: the run is finished, all processes gone"):
        page.until(lambda: finished(page) == PROMPT)
        servers.processes["web"].wait(60)
        wait_for(lambda: not any(each.is_running() for each in everything))


def refused(page: Page) -> bool:
    """Whether a new run is refused because the server stops."""
    try:
        page.run("10000+20000=", 6)
    except PageError as error:
        return "503" in str(error)
    return False


def no_large_files() -> None:
    """The disk is full for everything but the smallest files."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (48 << 10, 48 << 10))


def test_the_disk_is_full(tmp_path: Path, visit: Open) -> None:
    folder = tmp_path / "full"
    folder.mkdir()
    with Servers(folder, prepare=no_large_files, DEFAULT_MODEL=MODEL, SECRET_KEY="x" * 40) as full:
        page = visit(url=full.url)
        page.run(PROMPT, 6)
        assert shown(page) == PROMPT
        assert "Results are not stored on disk" in page.told()
        assert "free some space" in page.told().lower()
        page.go("row=1&pos=3")
        assert page.props["lens-graph.figure"]["data"]


def test_users_with_equal_and_different_requests_get_their_results(
    servers: Servers, visit: Open
) -> None:
    prompts = [PROMPT, PROMPT, "11111+22222=", "22222+11111=", PROMPT, "90909+10101="]
    pages = [visit() for _ in prompts]

    def use(page: Page, prompt: str) -> tuple[Any, str]:
        page.run(prompt, 6)
        page.go("row=1&pos=3")
        return shown(page), answer(page)

    with ThreadPoolExecutor(len(pages)) as pool:
        seen = list(pool.map(use, pages, prompts))
    sums = [str(eval(prompt.rstrip("="))) for prompt in prompts]  # noqa: S307 - our own sums
    assert [prompt for prompt, _ in seen] == prompts
    assert [digits.lstrip("0") for _, digits in seen] == sums
    assert {page.told() for page in pages} == {""}


def answer(page: Page) -> str:
    """The answer that the page shows, as digits."""
    run = page.props["run.data"]
    spec = RunSpec(run["model"], run["prompt"], new_tokens=run["new"])
    digits = run["token_ids"][run["prompt_length"] :]
    assert len(digits) == spec.new_tokens
    return "".join(map(str, digits))
