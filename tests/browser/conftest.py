"""A server with the default model, and browser pages whose console must stay empty."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.support.browser_pages import SharedPage, new_context, new_page
from tests.support.servers import Servers, loaded
from tests.support.time_limits import PATIENCE_MS

expect.set_options(timeout=PATIENCE_MS)
FAILED = pytest.StashKey[bool]()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, default_model_dir: Path) -> Iterator[Servers]:
    """Serve the page with the default model and an empty memo."""
    with Servers(tmp_path_factory.mktemp("served")) as running:
        loaded(running.url, running.log)
        yield running


@pytest.fixture
def visit(browser: Any, server: Servers) -> Iterator[Callable[..., Any]]:
    """Open a page: ``visit("?row=3")``. The test fails if a console is not empty at its end."""
    contexts: list[Any] = []
    console: list[str] = []

    def open_page(query: str = "", *, dark: bool = False) -> Any:
        contexts.append(new_context(browser, dark=dark))
        page = new_page(contexts[-1], console)
        page.goto(server.url + query)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert console == []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Note on each test whether it failed."""
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


@pytest.fixture(scope="module")
def shared_pages() -> Iterator[list[SharedPage]]:
    """The page of a file's tests; empty until one needs it."""
    pages: list[SharedPage] = []
    yield pages
    for page in pages:
        page.close()


@pytest.fixture
def revisit(
    browser: Any, server: Servers, shared_pages: list[SharedPage], request: pytest.FixtureRequest
) -> Iterator[Callable[..., Any]]:
    """Show an address in the page that a file's tests share: ``revisit("?row=3")``.

    After a failed test, the next one gets a new page.
    """

    def go_to(query: str = "") -> Any:
        if not shared_pages:
            shared_pages.append(SharedPage(browser, server.url + query))
        return shared_pages[0].go_to(query)

    yield go_to
    console = [line for page in shared_pages for line in page.console]
    if console or request.node.stash[FAILED]:
        for page in shared_pages:
            page.close()
        shared_pages.clear()
    assert console == []
