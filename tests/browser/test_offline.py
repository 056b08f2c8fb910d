"""The server is killed and comes back while a page waits for it, in a real browser."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.support.patience import PATIENCE_MS
from tests.support.servers import Servers, loaded

pytestmark = [pytest.mark.browser, pytest.mark.real, pytest.mark.full]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    """gunicorn on the small model."""
    with Servers(tmp_path, DEFAULT_MODEL="addition-5digit") as running:
        loaded(running.url, running.log)
        yield running


@pytest.mark.parametrize("running", [False, True])
def test_the_page_says_so_and_goes_on_by_itself(
    browser: Any, servers: Servers, running: bool
) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"{servers.url}?prompt=54321%2B12345%3D&new=6")
    page.wait_for_selector("#lens-graph .heatmaplayer image")
    page.fill("#run-prompt", "11111+22222=")
    if running:
        servers.model().suspend()
        page.click("#run-button")
        expect(page.locator("#run-cancel")).to_be_enabled()
    for each in servers.everything():
        each.send_signal(signal.SIGKILL)
    if not running:
        page.click("#run-button")
    expect(page.locator(".alerts")).to_contain_text("does not answer")
    assert page.input_value("#run-prompt") == "11111+22222="
    servers.again()
    if running:
        expect(page.locator(".alerts")).to_contain_text("Run it again")
        expect(page.locator("#run-cancel")).to_be_disabled()
        page.click("#run-button")
    page.wait_for_url("**11111*")
    expect(page.locator("#story-text")).to_contain_text("leads")
    expect(page.locator(".alerts")).to_be_empty()
    context.close()
