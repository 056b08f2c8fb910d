"""The browsers of the load test: real pages that show known and new prompts."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from urllib.parse import urlencode

import psutil

from tests.support import chromium
from tests.support.browser_pages import SharedPage

Prompt = Callable[[random.Random], tuple[str, int]]


class Browser(threading.Thread):
    """One browser with one page.

    Args:
        url: The page's address.
        until: When it ends, on the monotonic clock.
        stop: Ends it earlier.
        seed: Seed of its actions.
        prompts: Makers of a known and of a new prompt.
        on_action: Called with an action's name and its seconds.
        on_error: Called with what the console shows.
    """

    def __init__(
        self,
        url: str,
        until: float,
        stop: threading.Event,
        seed: int,
        prompts: tuple[Prompt, Prompt],
        on_action: Callable[[str, float], None],
        on_error: Callable[[str], None],
    ) -> None:
        super().__init__(name=f"browser-{seed}", daemon=True)
        self._url, self._until, self._stop_now, self._seed = url, until, stop, seed
        self._prompts, self._on_action, self._on_error = prompts, on_action, on_error

    def run(self) -> None:
        """Show one prompt after another."""
        from playwright.sync_api import sync_playwright

        try:
            with sync_playwright() as playwright:
                launch = playwright.chromium.launch
                browser = launch(executable_path=chromium.find(), args=chromium.FLAGS)
                for process in psutil.Process().children(recursive=True):
                    if "chrom" in process.name() or "headless" in process.name():
                        process.nice(19)  # their children, started later, inherit it
                page = SharedPage(browser, self._url)
                self._use(page)
                for line in page.console:
                    self._on_error(f"browser: {line}")
                page.close()
                browser.close()
        except Exception as error:  # noqa: BLE001 - any failure is a result of the measurement
            self._on_error(f"browser: {type(error).__name__}: {error}")

    def _use(self, page: SharedPage) -> None:
        pick = random.Random(self._seed)  # noqa: S311 - repeatable, not secret
        while time.monotonic() < self._until and not self._stop_now.is_set():
            known = pick.random() < 0.8
            prompt, new = self._prompts[0 if known else 1](pick)
            row, position = pick.randrange(1, 3), pick.randrange(3)
            query = urlencode({"prompt": prompt, "new": new, "row": row, "pos": position})
            began = time.monotonic()
            page.go_to(f"?{query}")
            name = "known" if known else "new"
            self._on_action(f"browser, {name} (with 0.3 s of rest)", time.monotonic() - began)
            self._stop_now.wait(pick.expovariate(1 / 3))
