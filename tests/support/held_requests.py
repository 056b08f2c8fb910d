"""Requests of one callback kept from the server, as a slow line keeps them: order made certain."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CALLBACKS = "**/_dash-update-component*"


class Held:
    """Requests that would set a property, in the order in which the page made them."""

    def __init__(self, page: Any, writes: str) -> None:
        self._page, self._writes = page, writes
        self._routes: list[Any] = []
        self._let_go: set[int] = set()
        self._keeps = True

    def take(self, route: Any) -> None:
        """Keep a request if it is one of them."""
        if self._keeps and self._writes in outputs(route.request):
            self._routes.append(route)
        else:
            route.continue_()

    def wait_for(self, count: int, seconds: float = 60) -> None:
        """Wait until the page has made so many."""
        late = time.monotonic() + seconds
        while len(self._routes) < count:
            assert time.monotonic() < late, f"{count} requests for {self._writes}"
            self._page.wait_for_timeout(20)

    def address(self, number: int) -> str:
        """Where one of them goes."""
        return str(self._routes[number].request.url)

    def let_go(self, number: int) -> None:
        """Have one answered, and the page get the answer."""
        self._let_go.add(number)
        with self._page.expect_response(lambda answer: self._writes in outputs(answer.request)):
            self._routes[number].continue_()

    def close(self) -> None:
        """Let the others go, and keep no more."""
        self._keeps = False
        for number, route in enumerate(self._routes):
            if number not in self._let_go:
                route.continue_()


def outputs(request: Any) -> str:
    """What a request's callback sets."""
    return str(json.loads(request.post_data or "{}").get("output", ""))


@contextmanager
def held(page: Any, writes: str) -> Iterator[Held]:
    """Keep the requests that would set ``id.property`` until the block ends."""
    kept = Held(page, writes)
    page.route(CALLBACKS, kept.take)
    yield kept
    kept.close()
    page.unroute(CALLBACKS, kept.take)
