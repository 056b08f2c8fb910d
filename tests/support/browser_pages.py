"""Pages of a real browser: one for a single test, or one that several tests use in turn."""

from __future__ import annotations

import time
from typing import Any

from tests.support.time_limits import PATIENCE_MS, PATIENCE_S

COUNT_REQUESTS = """
    const send = window.fetch;
    window.unanswered = 0;
    window.sent = 0;
    window.fetch = (...request) => {
        window.unanswered += 1;
        window.sent += 1;
        return send(...request).finally(() => (window.unanswered -= 1));
    };
"""
IS_BUSY = "() => window.unanswered > 0 || document.querySelector('.job.is-busy') !== null"
#: A link of the flow: by a method with shares, or an effect.
FLOW_DRAWN = "#flow-canvas .flow-link, #flow-graph .scatterlayer .point"
#: Longer than the pause between two polls of a job: some jobs show no progress bar.
REST_MS = 600
#: Close what a reader opened, then change the address.
GO_TO = """(query) => {
    document.activeElement?.blur();
    document.querySelectorAll("details[open]").forEach((each) => (each.open = false));
    document.querySelector(".offcanvas.show .btn-close")?.click();
    document.getElementById("alert-dismiss")?.click();
    scrollTo(0, 0);
    history.pushState(null, "", location.pathname + query);
    dispatchEvent(new PopStateEvent("popstate"));
}"""


def until_drawn(page: Any) -> None:
    """Wait until every view of the page Explore is drawn and no job runs."""
    for graph in ("lens", "attention"):
        page.wait_for_selector(f"#{graph}-graph .heatmaplayer image", state="attached")
    page.wait_for_selector("#curves-graph .scatterlayer .trace", state="attached")
    page.wait_for_selector(FLOW_DRAWN, state="attached")
    page.wait_for_selector(".story-phrase")
    page.wait_for_selector(".figure.is-loading", state="detached")
    page.wait_for_selector(".job.is-busy", state="detached")


def until_at_rest(page: Any) -> None:
    """Wait until no job runs, and the page has sent no request for a while.

    Args:
        page: A page with the script ``COUNT_REQUESTS``.
    """
    ends, idle_ms, before = time.monotonic() + PATIENCE_S, 0, None
    while idle_ms < REST_MS:
        assert time.monotonic() < ends, "the page does not come to rest"
        page.wait_for_timeout(100)
        sent = page.evaluate("window.sent")
        idle_ms = 0 if sent != before or page.evaluate(IS_BUSY) else idle_ms + 100
        before = sent


def new_context(browser: Any, *, dark: bool = False) -> Any:
    """A browser profile of its own, as another reader has."""
    return browser.new_context(
        viewport={"width": 1280, "height": 900}, color_scheme="dark" if dark else "light"
    )


def new_page(context: Any, console: list[str]) -> Any:
    """A page that adds to ``console`` what its console shows."""
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.on("console", lambda message: console.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: console.append(f"error: {error}"))
    return page


class SharedPage:
    """A page that several tests use in turn, because opening one takes seconds.

    Args:
        browser: The browser.
        url: Where the app is.
    """

    def __init__(self, browser: Any, url: str) -> None:
        self.console: list[str] = []
        self._context = new_context(browser)
        self._page = new_page(self._context, self.console)
        self._page.add_init_script(COUNT_REQUESTS)
        self._page.goto(url)
        until_at_rest(self._page)

    def go_to(self, query: str) -> Any:
        """Show another address in the same document, as the Back button does; the page."""
        self._page.mouse.move(2, 2)
        self._page.evaluate(GO_TO, query)
        until_at_rest(self._page)
        return self._page

    def close(self) -> None:
        """Close it."""
        self._context.close()
