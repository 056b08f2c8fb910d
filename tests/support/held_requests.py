"""Delay the requests of one callback, as a slow connection does, so that their order is fixed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CALLBACKS = "**/_dash-update-component*"


class Held:
    """The page's requests that set a property, in order."""

    def __init__(self, page: Any, writes: str) -> None:
        self._page, self._writes = page, writes
        self._routes: list[Any] = []
        self._let_go: set[int] = set()
        self._keeps = True

    def take(self, route: Any) -> None:
        """Delay a request if it sets the property."""
        if self._keeps and self._writes in outputs(route.request):
            self._routes.append(route)
        else:
            route.continue_()

    def wait_for(self, count: int, seconds: float = 60) -> None:
        """Wait until the page has sent this many."""
        late = time.monotonic() + seconds
        while len(self._routes) < count:
            assert time.monotonic() < late, f"{count} requests for {self._writes}"
            self._page.wait_for_timeout(20)

    def address(self, number: int) -> str:
        """The triggers of one of them."""
        return str(self._routes[number].request.url)

    def let_go(self, number: int) -> None:
        """Send one request and give its response to the page."""
        self._let_go.add(number)
        with self._page.expect_response(lambda answer: self._writes in outputs(answer.request)):
            self._routes[number].continue_()

    def close(self) -> None:
        """Send the others, and delay no more."""
        self._keeps = False
        for number, route in enumerate(self._routes):
            if number not in self._let_go:
                route.continue_()


def outputs(request: Any) -> str:
    """The outputs of a request's callback."""
    return str(json.loads(request.post_data or "{}").get("output", ""))


@contextmanager
def held(page: Any, writes: str) -> Iterator[Held]:
    """Delay the requests that set ``id.property`` until the block ends."""
    kept = Held(page, writes)
    page.route(CALLBACKS, kept.take)
    yield kept
    kept.close()
    page.unroute(CALLBACKS, kept.take)
