"""A served page in a process of its own, and a browser page whose console must stay empty."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.support.patience import PATIENCE_MS
from tests.support.servers import loaded

expect.set_options(timeout=PATIENCE_MS)
ROOT = Path(__file__).parents[2]
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+/")


class Server:
    """``python -m dash_app`` on a free loopback port."""

    def __init__(self, folder: Path, **settings: str) -> None:
        environment = {**os.environ, "STRATASCOPE_CACHE_DIR": str(folder / "cache")}
        environment |= {f"STRATASCOPE_{name}": value for name, value in settings.items()}
        self.log = folder / "server.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dash_app", "serve", "--port", "0"],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.url = self._address()

    def _address(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := ADDRESS.search(line):
                return found[0]
        raise AssertionError(f"the server said no address:\n{self.log.read_text()}")

    def close(self) -> None:
        """Stop it and what it started."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, default_model_dir: Path) -> Iterator[Server]:
    """The page on the default model, its memo empty at first."""
    running = Server(tmp_path_factory.mktemp("served"))
    loaded(running.url, running.log)
    yield running
    running.close()


@pytest.fixture
def visit(browser: Any, server: Server) -> Iterator[Callable[..., Any]]:
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
