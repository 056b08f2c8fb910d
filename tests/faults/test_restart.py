"""A server stops while work waits, and another one starts: every answer arrives all the same."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.faults.test_one_host import MODEL, begin, shown
from tests.support.dash_page import Page
from tests.support.scaled import LIMIT_S, wait_for
from tests.support.servers import Servers, loaded, status

pytestmark = [pytest.mark.full, pytest.mark.real]

PROMPTS = ("54321+12345=", "11111+22222=", "90909+10101=", "10000+20000=")
SETTINGS = {"DEFAULT_MODEL": MODEL, "WORKER_SILENCE_S": "3600", "GRACE_S": "1"}
Recovery = Callable[[str], AbstractContextManager[None]]


@pytest.fixture(params=[False, True], ids=["one host", "Redis"])
def servers(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Servers]:
    """A server that waits one second for running work when it stops."""
    with Servers(tmp_path, redis=request.param, **SETTINGS) as running:
        loaded(running.url, running.log)
        yield running


@pytest.fixture
def visit(servers: Servers) -> Iterator[Callable[[], Page]]:
    """Open a page that waits for a server that restarts, as the page's script does."""
    pages: list[Page] = []

    def start() -> Page:
        pages.append(Page(servers.url, patient=True))
        pages[-1].open()
        return pages[-1]

    yield start
    for page in pages:
        page.close()


def computed(servers: Servers, kind: str) -> int:
    """How many computations of a kind ended well, in this web process."""
    page = Page(servers.url)
    try:
        text = page.request("GET", "/metrics", "metrics").decode()
    finally:
        page.close()
    found = re.search(rf'stratascope_jobs_total{{kind="{kind}",outcome="ok"}} (\d+)', text)
    return int(found[1]) if found else 0


def stop(servers: Servers) -> None:
    """Send SIGTERM and wait until all processes of the web server have ended."""
    everything = servers.everything()
    os.kill(servers.processes["web"].pid, signal.SIGTERM)
    servers.processes["web"].wait(LIMIT_S)
    wait_for(lambda: not any(each.is_running() for each in everything))


def test_waiting_runs_are_asked_again(
    servers: Servers, visit: Callable[[], Page], recovery: Recovery
) -> None:
    done, *waiting = (visit() for _ in PROMPTS)
    done.run(PROMPTS[0], 6)
    host = "worker" if servers.redis else "web"
    model = servers.model(host)
    model.suspend()
    for page, prompt in zip(waiting, PROMPTS[1:], strict=True):
        begin(page, prompt)
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        settled = [pool.submit(page.settle) for page in waiting]
        stop(servers)
        with recovery(f"server restarted with waiting runs ({host}): all are answered"):
            servers.again()
            if servers.redis:
                model.resume()
            for one in settled:
                one.result(LIMIT_S)
    assert [shown(page) for page in waiting] == list(PROMPTS[1:])
    assert {page.told() for page in waiting} == {""}
    again = computed(servers, "run")
    # Each once. With Redis, the worker may have computed them while no web server was there.
    assert again <= len(waiting) if servers.redis else again == len(waiting)
    done.run(PROMPTS[0], 6)  # it was computed before the restart
    assert (shown(done), computed(servers, "run")) == (PROMPTS[0], again)


def test_health_says_that_the_server_stops(tmp_path: Path) -> None:
    patient = {**SETTINGS, "GRACE_S": "600"}
    with Servers(tmp_path, **patient) as servers:
        loaded(servers.url, servers.log)
        page = Page(servers.url)
        page.open()
        model = servers.model()
        model.suspend()
        begin(page)
        os.kill(servers.processes["web"].pid, signal.SIGTERM)
        wait_for(lambda: status(servers.url, "/readyz") == 503)
        assert status(servers.url, "/healthz") == 200
        model.resume()
        page.close()
        servers.processes["web"].wait(LIMIT_S)


def suite(page: Page, size: int) -> None:
    """Start a suite and wait until it runs."""
    page.props |= {"tasks-size.value": size}
    page.press("tasks-run")
    page.begin("tasks-last.data")


def finished_prompts(page: Page) -> int:
    """How many prompts of a suite are finished, as its caption says."""
    found = re.search(r"\((\d+) of", str(page.props.get("tasks-progress-label.children")))
    return int(found[1]) if found else 0


def test_a_suite_goes_on_from_its_finished_prompts(
    servers: Servers, visit: Callable[[], Page], recovery: Recovery
) -> None:
    page = visit()
    suite(page, 1500)
    page.until(lambda: finished_prompts(page) > 1)
    with ThreadPoolExecutor(1) as pool:
        settled = pool.submit(page.settle)
        stop(servers)
        with recovery("server restarted in a suite: the suite ends"):
            servers.again()
            settled.result(LIMIT_S)
    assert page.told() == ""
    assert page.props["tasks-figures.children"]
