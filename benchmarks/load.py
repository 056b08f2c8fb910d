"""Load test: many users at once over HTTP, and a few in browsers.

    python -m benchmarks.load                                  # 16 users, 4 browsers, 10 minutes
    python -m benchmarks.load --users 4 --browsers 0 --minutes 0.5 --model addition-5digit
    python -m benchmarks.load --redis --processes 2            # with Redis and a Celery worker

It prints rates, times, errors and memory. Each user opens the page, runs new and known prompts,
selects cells and cancels, and pauses for three seconds on average between two actions. A time
ends when the last picture is drawn. "Known" means that a user has seen the prompt or cell before.
The exit status is 0 without errors.
The test starts its own servers on loopback and stops them. The browsers run on the same cores, with
the lowest priority: those of real users are on other machines.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks._load_browsers import Browser
from benchmarks._load_memory import CACHES, Memory
from tests.support.dash_page import Page, PageError
from tests.support.servers import Servers

SUBJECTS = ("France", "Japan", "Italy", "Egypt", "Peru", "Kenya")
#: Numbers of rows and positions to click: small, so that cells repeat.
ROWS, POSITIONS = 5, 3
#: Fraction of the time that counts as warm-up.
WARM = 0.3


@dataclass
class Tally:
    """The measurements by action and by view; several threads add to them."""

    times: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    views: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    known: set[tuple[Any, ...]] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def is_known(self, *item: Any) -> bool:
        """Whether a user has seen this prompt or cell before."""
        with self.lock:
            return item in self.known

    def mark_known(self, *item: Any) -> None:
        """Record that a user has seen this prompt or cell."""
        with self.lock:
            self.known.add(item)

    def add(self, action: str, seconds: float) -> None:
        """Add the time of one action."""
        with self.lock:
            self.times[action].append(seconds)

    def error(self, message: str) -> None:
        """Add one error."""
        with self.lock:
            self.errors[message[:160]] += 1


class User:
    """One user at one page.

    Args:
        url: The page's address.
        tally: Collects the times.
        seed: Seed of the user's actions.
        sums: Whether the model can only add.
        think_s: Mean seconds between two actions.
    """

    def __init__(self, url: str, tally: Tally, seed: int, sums: bool, think_s: float) -> None:
        self._url, self._tally, self._sums, self._think_s = url, tally, sums, think_s
        self._random = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._action = ""
        self._prompt: tuple[str, int] = ("", 0)
        self._at: tuple[int, int] = (-1, -1)
        self._page: Page | None = None

    def act(self, until: float, limit: int, stop: threading.Event) -> None:
        """Do one action after another, until a time (monotonic) or a number of actions."""
        for _ in range(limit):
            if time.monotonic() >= until or stop.is_set():
                break
            try:
                if self._page is None:
                    self._open()
                else:
                    self._choose_action(self._page)
            except (PageError, OSError) as error:
                self._tally.error(f"{self._action}: {type(error).__name__}: {error}")
                self._close()
            stop.wait(self._random.expovariate(1.0 / self._think_s) if self._think_s else 0.0)
        self._close()

    def _close(self) -> None:
        if self._page is not None:
            self._page.close()
        self._page = None

    def _open(self) -> None:
        self._page = Page(self._url, self._called)
        prompt = self._known_prompt()
        known = self._tally.is_known(*prompt)
        query = f"?prompt={prompt[0]}&new={prompt[1]}".replace("+", "%2B").replace(" ", "+")
        page = self._page
        self._time(f"open, {known_or_new(known)}", page, lambda: page.open(query))
        self._tally.mark_known(*prompt)
        self._prompt = prompt

    def _choose_action(self, page: Page) -> None:
        choice = self._random.random()
        if choice < 0.6:
            self._cell(page)
        elif choice < 0.8:
            self._run(page, self._known_prompt())
        elif choice < 0.93:
            self._run(page, self._new_prompt())
        elif choice < 0.97:
            self._cancel(page)
        else:
            self._close()

    def _cell(self, page: Page) -> None:
        row, pos = self._random.randrange(1, ROWS), self._random.randrange(POSITIONS)
        if self._sums:
            row = 1 + row % 2
        if (row, pos) == self._at:
            return
        self._at = (row, pos)
        known = self._tally.is_known(*self._prompt, row, pos)
        to = f"row={row}&pos={pos}&layer={row - 1}"
        self._time(f"cell, {known_or_new(known)}", page, lambda: page.go(to))
        self._tally.mark_known(*self._prompt, row, pos)

    def _run(self, page: Page, prompt: tuple[str, int]) -> None:
        known = self._tally.is_known(*prompt)
        self._time(f"run, {known_or_new(known)}", page, lambda: page.run(*prompt))
        self._tally.mark_known(*prompt)
        self._prompt = prompt
        shown = (page.props.get("run.data") or {}).get("prompt")
        if shown != prompt[0]:
            self._tally.error(f"requested {prompt[0]!r} and got {shown!r}")

    def _cancel(self, page: Page) -> None:
        prompt = self._new_prompt()
        page.ask(prompt[0], prompt[1] + 20 * (not self._sums))
        page.until(lambda: not page.pending)
        self._action, began = "cancel", time.monotonic()
        page.cancel()
        page.settle()
        self._tally.add("cancel", time.monotonic() - began)
        if page.props.get("run-prompt.value") != prompt[0]:
            self._tally.error("a cancel lost the prompt")

    def _time(self, action: str, page: Page, work: Callable[[], Any]) -> None:
        self._action, began = action, time.monotonic()
        work()
        if page.drawn > began:
            self._tally.add(action, page.drawn - began)
        alert = page.props.get("alert.children")
        if alert and "Cancelled" not in str(alert):
            self._tally.error(f"{action}: the page shows {text_of(alert)}")

    def _called(self, output: str, seconds: float, status: int) -> None:
        with self._tally.lock:
            self._tally.requests += 1
            if self._action.endswith("known") and "figure" in output:
                name = output.strip(".").partition("-")[0]
                self._tally.views[name].append(seconds)

    def _known_prompt(self) -> tuple[str, int]:
        return known_prompt(self._random, self._sums)

    def _new_prompt(self) -> tuple[str, int]:
        return new_prompt(self._random, self._sums)


def known_prompt(source: random.Random, sums: bool) -> tuple[str, int]:
    """Return one of a few prompts, and its number of new tokens."""
    number = source.randrange(len(SUBJECTS))
    if sums:
        return f"{11111 + 777 * number}+{23456 + number}=", 6
    return f"The capital of {SUBJECTS[number]} is", 1


def new_prompt(source: random.Random, sums: bool) -> tuple[str, int]:
    """Return a prompt that nobody has seen, and its number of new tokens."""
    pick = source.randrange
    if sums:
        return f"{pick(10000, 99999)}+{pick(10000, 99999)}=", 6
    return f"Of the {pick(100000)} people in {SUBJECTS[pick(len(SUBJECTS))]}, most", 1


def known_or_new(known: bool) -> str:
    """Return the second word of an action's name."""
    return "known" if known else "new"


def text_of(components: Any) -> str:
    """Return the text of components."""
    if isinstance(components, list):
        return " ".join(text_of(each) for each in components)
    if isinstance(components, dict):
        return text_of(components.get("props", {}).get("children", ""))
    return str(components)


def percentile(values: list[float], fraction: float) -> float:
    """Return the value below which a fraction of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


def table(title: str, times: dict[str, list[float]]) -> None:
    """Print the count, p50, p95 and maximum in milliseconds."""
    print(f"\n{title:28} {'count':>7} {'p50':>7} {'p95':>7} {'max':>7}  ms")
    for name in sorted(times):
        values = [1000 * value for value in times[name]]
        shown = (statistics.median(values), percentile(values, 0.95), max(values))
        print(f"{name:28} {len(values):7}" + "".join(f" {value:7.0f}" for value in shown))


def report(tally: Tally, memory: Memory, seconds: float) -> None:
    """Print all measurements."""
    actions = sum(map(len, tally.times.values()))
    print(f"{actions} actions, {actions / seconds:.2f} a second; ", end="")
    print(f"{tally.requests} requests, {tally.requests / seconds:.1f} a second")
    table("action", tally.times)
    every = [seconds for seconds_of_view in tally.views.values() for seconds in seconds_of_view]
    table("view, known: one request", {**tally.views, "(every view)": every} if every else {})
    memory.report(WARM)
    print("CPU: " + ", ".join(f"{part} {spent:.0f} s" for part, spent in memory.cpu().items()))
    print(f"\nerrors: {sum(tally.errors.values())}")
    for message, count in tally.errors.most_common(10):
        print(f"  {count} x {message}")


def warm_up(url: str) -> None:
    """Open a page and wait until it is drawn, so that the model is loaded."""
    page = Page(url)
    page.open()
    page.close()


def measure(chosen: argparse.Namespace) -> Tally:
    """Start the servers, run the users and print the report."""
    tally, stop = Tally(), threading.Event()
    sums = chosen.model.startswith("addition")
    settings = {
        **CACHES,
        "DEFAULT_MODEL": chosen.model,
        # All users share one address here, and each address has a share of these.
        "REQUESTS_PER_MINUTE": "100000",
        "MAX_JOBS": "512",
        "WEB_PROCESSES": str(chosen.processes),
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        Servers(Path(folder), redis=chosen.redis, **settings) as servers,
    ):
        warm_up(servers.url)
        memory = Memory(servers)
        seconds = 60.0 * chosen.minutes
        began = time.monotonic()
        until = began + seconds
        users = [
            User(servers.url, tally, chosen.seed + number, sums, chosen.think)
            for number in range(chosen.users)
        ]
        limits = (until, chosen.actions, stop)
        threads = [threading.Thread(target=user.act, args=limits) for user in users]
        prompts = (partial(known_prompt, sums=sums), partial(new_prompt, sums=sums))
        make = partial(Browser, servers.url, until, stop, prompts=prompts)
        make = partial(make, on_action=tally.add, on_error=tally.error)
        threads += [make(1000 + number) for number in range(chosen.browsers)]
        try:
            for thread in (memory, *threads):
                thread.start()
            for thread in threads:
                thread.join(seconds + 600)
        finally:
            stop.set()
            memory.stop()
        report(tally, memory, time.monotonic() - began)
    return tally


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--users", type=int, default=16)
    parser.add_argument("--browsers", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--actions", type=int, default=1_000_000, help="maximum for each user")
    parser.add_argument("--think", type=float, default=3.0, help="mean seconds between two actions")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--redis", action="store_true", help="use Redis and a Celery worker")
    parser.add_argument("--processes", type=int, default=1, help="web processes (with --redis)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Measure, and return 1 if there were errors, else 0."""
    return int(bool(measure(parse(arguments)).errors))


if __name__ == "__main__":
    sys.exit(main())
