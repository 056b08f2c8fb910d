"""A served page in a process of its own, and a browser page whose console must stay empty."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.support.servers import Servers, loaded
from tests.support.time_limits import PATIENCE_MS

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, default_model_dir: Path) -> Iterator[Servers]:
    """The page on the default model, its memo empty at first."""
    with Servers(tmp_path_factory.mktemp("served")) as running:
        loaded(running.url, running.log)
        yield running


@pytest.fixture
def visit(browser: Any, server: Servers) -> Iterator[Callable[..., Any]]:
    """Open the page: ``visit("?row=3")``. Whatever is in a console at the end fails the test."""
    contexts: list[Any] = []
    said: list[str] = []

    def open_page(query: str = "", *, dark: bool = False) -> Any:
        context = browser.new_context(
            viewport={"width": 1280, "height": 900}, color_scheme="dark" if dark else "light"
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        page.goto(server.url + query)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
