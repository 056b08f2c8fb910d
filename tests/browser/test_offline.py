"""The server is killed and comes back while a page waits for it, in a real browser."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.support.held_requests import CALLBACKS, outputs
from tests.support.servers import Servers, loaded
from tests.support.time_limits import PATIENCE_MS, PATIENCE_S

pytestmark = [pytest.mark.browser, pytest.mark.real, pytest.mark.full]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    """gunicorn on the small model."""
    with Servers(tmp_path, DEFAULT_MODEL="addition-5digit", WORKER_SILENCE_S="3600") as running:
        loaded(running.url, running.log)
        yield running


@pytest.fixture
def page(browser: Any, servers: Servers) -> Iterator[Any]:
    """A drawn page with another prompt typed."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE_MS)
    opened.goto(f"{servers.url}?prompt=54321%2B12345%3D&new=6")
    opened.wait_for_selector("#lens-graph .heatmaplayer image")
    opened.fill("#run-prompt", "11111+22222=")
    yield opened
    context.close()


@pytest.mark.parametrize("running", [False, True])
def test_the_page_reports_an_outage_and_recovers(
    servers: Servers, page: Any, running: bool
) -> None:
    if running:
        begin(servers, page)
    kill(servers)
    if not running:
        page.click("#run-button")
    expect(page.locator("#offline")).to_contain_text("does not answer")
    assert page.input_value("#run-prompt") == "11111+22222="
    servers.again()
    page.wait_for_url("**11111*")
    expect(page.locator("#story-text")).to_contain_text("leads")
    expect(page.locator("#offline")).to_be_empty()
    expect(page.locator(".alerts")).to_be_empty()


def test_a_late_response_does_not_remove_the_message(servers: Servers, page: Any) -> None:
    """A response was under way when the server ended. It would clear the message."""
    late: list[Any] = []

    def keep(route: Any) -> None:
        if "alert.children" in outputs(route.request):
            late.append((route, route.fetch()))
        else:
            route.continue_()

    begin(servers, page)
    page.route(CALLBACKS, keep)
    page.locator(".token").nth(1).click()
    ends = time.monotonic() + PATIENCE_S
    while not late:
        assert time.monotonic() < ends, "no request could clear the message"
        page.wait_for_timeout(20)
    kill(servers)
    expect(page.locator("#offline")).to_contain_text("does not answer")
    for route, answer in late:
        with page.expect_response(lambda sent: "alert.children" in outputs(sent.request)):
            route.fulfill(response=answer)
    page.wait_for_timeout(500)  # to be applied
    expect(page.locator("#offline")).to_contain_text("does not answer")


def test_the_page_says_that_it_stopped_retrying(servers: Servers, page: Any) -> None:
    page.clock.install()
    kill(servers)
    page.click("#run-button")
    expect(page.locator("#offline")).to_contain_text("tries again by itself")
    page.clock.fast_forward("11:00")
    expect(page.locator("#offline")).to_contain_text("has stopped")
    assert page.input_value("#run-prompt") == "11111+22222="


def begin(servers: Servers, page: Any) -> None:
    """Press Run for a prompt that the model will not reach."""
    servers.model().suspend()
    page.click("#run-button")
    expect(page.locator("#run-cancel")).to_be_enabled()


def kill(servers: Servers) -> None:
    """Kill all processes of the server (SIGKILL)."""
    for each in servers.everything():
        each.send_signal(signal.SIGKILL)
