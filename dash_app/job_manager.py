"""Dash's background callbacks in threads of the web process, which wait for the service.

The stock manager forks a process for each job: a model loaded there is lost, a
fork after a threaded forward hangs, and two users with equal arguments share one
result key, so that one of them gets nothing. Here a job is a thread that blocks
on ``analysis.service``; every job has a key of its own; results are JSON, kept
in a store that holds nothing but bytes; cancelling sets a flag that the model
worker looks at between layers.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from contextvars import Context, ContextVar
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from dash import DiskcacheManager
from dash._callback_context import context_value
from dash._get_app import app_context, get_app
from dash._utils import AttributeDict
from dash.background_callback._proxy_set_props import ProxySetProps
from dash.background_callback.managers import BaseBackgroundCallbackManager
from dash.exceptions import PreventUpdate
from plotly.io.json import to_json_plotly

from analysis.errors import BusyError
from analysis.job import Job, current_user
from analysis.store import Memo
from dash_app.job_errors import failure, forgotten

_NO_UPDATE = {"_dash_no_update": "_dash_no_update"}
_KEEP_S = 3600.0


@dataclass(eq=False, slots=True)
class Running:
    """One background callback under way, or lately ended.

    Attributes:
        key: Its id, and that of its result.
        user: Whose it is.
        state: "running", "finished", "collected" or "cancelled".
        progress: What the page has not yet fetched, as JSON; empty if nothing.
        props: What ``set_props`` set and the page has not yet fetched, by component.
        jobs: Its requests to the service.
        ended: When it ended, on the monotonic clock.
    """

    key: str
    user: str
    state: str = "running"
    progress: str = ""
    props: dict[str, dict[str, Any]] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)
    ended: float = 0.0


current_background: ContextVar[Running | None] = ContextVar("stratascope_background", default=None)


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
        """A new id for every job (the memo is what users share), and the function it will call."""
        key = secrets.token_hex(16)
        self._functions[key] = fn
        return key

    def call_job_fn(self, key: str, job_fn: bool, args: Any, context: Mapping[str, Any]) -> str:
        """Start a job and give its id."""
        running = Running(key, user_of(context))
        function = self._functions.pop(key)
        with self._lock:
            self._prune()
            busy = sum(other.state == "running" for other in self._running.values())
            self._running[key] = running
        if busy >= self._max_jobs:
            problem = BusyError("Too many requests are being worked on.", "Try again in a minute.")
            self._finish(running, failure(problem))
            return key
        first = [lambda value: self._progress(running, value)] if job_fn else []
        target = Context()
        app: Any = get_app  # Dash has no types for it
        target.run(app_context.set, app())
        work = (running, partial(function, *first), args, dict(context))
        threading.Thread(
            target=target.run, args=(self._work, *work), name=f"job-{key[:8]}", daemon=True
        ).start()
        return key

    def _work(self, running: Running, fn: Any, args: Any, context: dict[str, Any]) -> None:
        current_background.set(running)
        current_user.set(running.user)
        values = AttributeDict(**context)
        values.ignore_register_page = False
        proxy: Any = ProxySetProps  # Dash has no types for it
        values.updated_props = proxy(lambda name, props: self._set(running, name, props))
        context_value.set(values)
        self._finish(running, self._outcome(fn, args))

    def _outcome(self, fn: Any, args: Any) -> str:
        try:
            if isinstance(args, dict):
                return to_json(fn(**args))
            return to_json(fn(*(args if isinstance(args, (list, tuple)) else (args,))))
        except PreventUpdate:
            return to_json(_NO_UPDATE)
        except Exception as error:  # noqa: BLE001 - the page hears of it, whatever it is
            return failure(error)

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
        oldest = time.monotonic() - _KEEP_S
        for key, running in list(self._running.items()):
            if running.ended and running.ended < oldest:
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


def to_json(value: Any) -> str:
    """Components, figures with numpy arrays and plain values as JSON."""
    text: str = to_json_plotly(value)
    return text


def user_of(context: Mapping[str, Any]) -> str:
    """Whose request it is: the page load that Dash signs, hashed."""
    args = context.get("args") or {}
    return short(str(args.get("endId") or context.get("remote") or ""))


def short(text: str) -> str:
    """A name that tells nobody what it was made from."""
    return hashlib.sha256(text.encode()).hexdigest()[:16] if text else ""
