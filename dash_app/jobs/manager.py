"""Dash's background callbacks in threads of the web process, which wait for the service.

The stock manager forks a process for each job: a model loaded there is lost, a
fork after a threaded forward hangs, and two users with equal arguments share one
result key, so that one of them gets nothing. Here a job is a thread that blocks
on ``analysis.service``; every job has a key of its own; results are JSON, kept
in a store that holds nothing but bytes; cancelling sets a flag that the model
worker looks at between layers.
"""

from __future__ import annotations

import inspect
import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dash import DiskcacheManager
from dash.background_callback.managers import BaseBackgroundCallbackManager

from analysis.contract.jobs import current_user
from analysis.errors import AnalysisError, BusyError
from analysis.store.memo import Memo
from dash_app.errors import failure, forgotten, shutting_down
from dash_app.jobs.thread import Running, Work, start, to_json
from dash_app.people import page_key, tag


class JobManager(DiskcacheManager):
    """Runs background callbacks in threads; what Dash calls is held by contract tests.

    Args:
        folder: Where results wait to be fetched; None: in memory only.
        limit: Bytes of them.
        max_jobs: How many may run at once.
    """

    def __init__(
        self, folder: Path | None = None, *, limit: int = 256 << 20, max_jobs: int = 64
    ) -> None:
        # Not DiskcacheManager's own, which asks for a package that only forks need.
        base: Any = BaseBackgroundCallbackManager  # Dash has no types for it
        base.__init__(self, None)
        self.handle = None
        self.expire = None
        self._secret = b""
        self._functions: dict[str, Callable[..., Any]] = {}
        self._results = Memo(folder, limit)
        self._max_jobs = max_jobs
        self._lock = threading.Lock()
        self._running: dict[str, Running] = {}
        self._draining = False
        self._pruned = 0.0

    def drain(self, grace_s: float, fetch_s: float = 2.0) -> None:
        """Start nothing more, let what runs finish, tell the pages of what does not.

        Args:
            grace_s: Seconds for jobs to finish.
            fetch_s: Seconds for pages to fetch how they ended.
        """
        self._draining = True
        some_ran = any(running.state == "running" for running in list(self._running.values()))
        self._until(grace_s, "running")
        for running in list(self._running.values()):
            if running.state == "running":
                self._finish(running, failure(shutting_down()))
                for asked in tuple(running.jobs):
                    asked.cancel()
        self._until(fetch_s, "finished")
        if some_ran:
            time.sleep(min(1.0, fetch_s))  # pages draw what they have just fetched

    def _until(self, seconds: float, state: str) -> None:
        """Wait until no job is in ``state``, but no longer."""
        late = time.monotonic() + seconds
        while time.monotonic() < late:
            if not any(running.state == state for running in list(self._running.values())):
                return
            time.sleep(0.05)

    def close(self) -> None:
        """Cancel what runs, and take no further part in Dash's registry."""
        for key in list(self._running):
            self.terminate_job(key)
        if self in BaseBackgroundCallbackManager.managers:
            BaseBackgroundCallbackManager.managers.remove(self)
        self._results.close()

    # What Dash calls to start a job.

    def make_job_fn(self, fn: Callable[..., Any], progress: bool, key: str | None = None) -> bool:
        """What ``call_job_fn`` gets for a callback: whether it wants to tell of its progress.

        Not the function: Dash registers the callbacks of every app with every manager, under
        names that two apps made by one function share.
        """
        if inspect.iscoroutinefunction(fn):
            raise TypeError("background callbacks run in threads and can't be coroutines")
        return progress

    def build_cache_key(self, fn: Callable[..., Any], *_args: Any) -> str:
        """A new id for every job (the memo is what users share), and the function it will call.

        It ends with whose it is: the gate lets nobody else ask for it.
        """
        key = secrets.token_hex(16) + tag(current_user.get())
        self._functions[key] = fn
        return key

    def call_job_fn(self, key: str, job_fn: bool, args: Any, context: Mapping[str, Any]) -> str:
        """Start a job and give its id."""
        function = self._functions.pop(key)
        page, turn = asked_by(context)
        sets = json.dumps(context.get("outputs_list"), sort_keys=True)
        running = Running(key, user_of(context), sets=sets, page=page, turn=turn)
        with self._lock:
            self._prune()
            busy = sum(other.state == "running" for other in self._running.values())
            self._running[key] = running
        refusal = self._refusal(busy)
        self._open(running)
        self._replace(running)
        if refusal is not None:
            self._finish(running, failure(refusal))
            return key
        first = [lambda value: self._progress(running, value)] if job_fn else []
        start(
            running,
            Work(
                partial(function, *first),
                args,
                dict(context),
                partial(self._set, running),
                partial(self._finish, running),
            ),
        )
        return key

    def _replace(self, new: Running) -> None:
        """Cancel what ``new`` replaces, or itself if it comes late: Dash may not know of it yet."""
        for other in list(self._running.values()):
            if new.replaces(other):
                self.terminate_job(other.key)
            elif other.replaces(new):
                self.terminate_job(new.key)

    def _refusal(self, busy: int) -> AnalysisError | None:
        if self._draining:
            return shutting_down()
        if busy >= self._max_jobs:
            return BusyError("Too many requests are being worked on.", "Try again in a minute.")
        return None

    def _open(self, running: Running) -> None:
        """Nothing; ``SharedJobManager`` tells the other web processes."""

    def _progress(self, running: Running, value: Any) -> None:
        values = value if isinstance(value, (list, tuple)) else [value]
        running.progress = to_json(list(values))

    def _set(self, running: Running, name: str, props: dict[str, Any]) -> None:
        with self._lock:
            running.props[name] = {**running.props.get(name, {}), **props}

    def _finish(self, running: Running, outcome: str) -> None:
        if running.state == "running":
            self._results.put(running.key, outcome.encode())
        with self._lock:
            running.ended = time.monotonic()
            if running.state == "running":
                running.state = "finished"

    def _prune(self) -> None:
        now = time.monotonic()
        if now - self._pruned < 1.0:
            return
        self._pruned = now
        for key, running in list(self._running.items()):
            if running.stale(now):
                del self._running[key]
                self._results.remove(key)

    # What Dash calls while a job runs, and after.

    def job_running(self, job: str) -> bool:
        """Whether there is still something to fetch.

        A finished job counts as running until its result was fetched: Dash asks
        for the result first and for this next, and would lose what came between.
        """
        running = self._running.get(job)
        return running is not None and running.state in ("running", "finished")

    def terminate_job(self, job: str | None) -> None:
        """Cancel a job; nothing if it is over."""
        running = self._running.get(job or "")
        if running is None:
            return
        with self._lock:
            if running.state != "running":
                return
            running.state = "cancelled"
            running.ended = time.monotonic()
            requests = tuple(running.jobs)
        for asked in requests:
            asked.cancel()

    def terminate_unhealthy_job(self, job: str) -> bool:
        """A thread can't die unheard: there are none."""
        return False

    def get_progress(self, key: str) -> Any:
        """What to show, if it changed since the last time."""
        running = self._running.get(key)
        if running is None:
            return None
        news, running.progress = running.progress, ""
        return json.loads(news) if news else None

    def result_ready(self, key: str) -> bool:
        """Whether the result can be fetched."""
        running = self._running.get(key)
        return running is not None and running.state == "finished"

    def get_result(self, key: str, job: str | None) -> Any:
        """The result, once; UNDEFINED while there is none."""
        running = self._running.get(key)
        if running is None:
            return json.loads(failure(forgotten()))
        with self._lock:
            if running.state != "finished":
                return self.UNDEFINED
            running.state = "collected"
        data = self._results.get(key)
        self._results.remove(key)
        return json.loads(data if data is not None else failure(forgotten()))

    def get_updated_props(self, key: str) -> dict[str, Any]:
        """What ``set_props`` set since the last time, by component."""
        running = self._running.get(key)
        if running is None:
            return {}
        with self._lock:
            props, running.props = running.props, {}
        return json.loads(to_json(props)) if props else {}

    def clear_cache_entry(self, key: str) -> None:
        """Forget a result."""
        self._results.remove(key)

    def get_or_create_signing_secret(self, generate: Callable[[], bytes]) -> bytes:
        """A secret for this process, never on disk; the app sets ``server.secret_key`` instead."""
        with self._lock:
            self._secret = self._secret or generate()
        return self._secret


def user_of(context: Mapping[str, Any]) -> str:
    """Whose request it is: the user whom the gate let in, else the page load that Dash signs."""
    args = context.get("args") or {}
    return current_user.get() or page_key(str(args.get("endId") or context.get("remote") or ""))


def asked_by(context: Mapping[str, Any]) -> tuple[str, int]:
    """The page load that asks, and the number of its request; 0 where it has none."""
    args = context.get("args") or {}
    turn = str(args.get("turn") or "")
    return str(args.get("endId") or ""), int(turn) if turn.isdecimal() and len(turn) < 10 else 0
