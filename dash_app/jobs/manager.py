"""Dash's background callbacks in threads of the web process, which wait for the service.

Dash's own manager forks a process for each job: a model loaded there is lost, a fork after a
threaded forward pass hangs, and of two users with equal arguments only one gets the result. Here a
job is a thread that waits for ``analysis.service``. Every job has its own key. Results are JSON.
Cancelling sets a flag that the model worker checks between layers.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import secrets
import threading
import time
from collections import Counter
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
from flask import g
from plotly.io.json import to_json_plotly

from analysis.contract.jobs import Job, Priority, current_user, share
from analysis.errors import AnalysisError, BusyError
from analysis.store.memo import Memo
from dash_app.errors import failure, forgotten, shutting_down
from dash_app.monitoring import USER, current_request, owner_tag, page_key

#: Seconds that a result is kept for the page, and that an ended job is remembered.
_KEEP_S, _REMEMBER_S = 900.0, 60.0
#: Most ended jobs that are kept: of one user, and of all.
_KEPT_OF_USER, _KEPT = 32, 512
_NO_UPDATE = {"_dash_no_update": "_dash_no_update"}


@dataclass(eq=False, slots=True)
class BackgroundJob:
    """A background callback that runs, or ended recently.

    Attributes:
        key: Its id, and that of its result.
        user: Its owner.
        state: "running", "finished", "collected", "cancelled", or "left" to the next server.
        progress: Progress that the page has not fetched yet, as JSON; empty if there is none.
        props: Values of ``set_props`` that the page has not fetched yet, by component.
        requests: Its requests to the service.
        ended: When it ended, on the monotonic clock.
        address: Its client, if nobody signs in: the user is then a page load, which costs nothing.
        sets, page, turn: The outputs of its callback, the page load, and its number in the page.
    """

    key: str
    user: str
    state: str = "running"
    progress: str = ""
    props: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[Job] = field(default_factory=list)
    ended: float = 0.0
    address: str = ""
    sets: str = ""
    page: str = ""
    turn: int = 0

    def stale(self, now: float) -> bool:
        """Whether it can be dropped: it ended, and the page had time to fetch the result."""
        patience = _KEEP_S if self.state == "finished" else _REMEMBER_S
        return bool(self.ended) and now - self.ended > patience

    def is_long(self) -> bool:
        """Whether it waits for long work."""
        return bool(self.requests) and self.requests[-1].priority >= Priority.LONG

    def replaces(self, other: BackgroundJob) -> bool:
        """Whether the same page called the same callback for this job later than for ``other``."""
        mine, theirs = ((one.sets, one.page, one.user) for one in (self, other))
        return bool(self.page) and mine == theirs and self.turn > other.turn

    def line(self) -> str:
        """A key shared by all jobs that can replace each other, in every process."""
        text = "\0".join((self.user, self.page, self.sets))
        return hashlib.sha256(text.encode()).hexdigest()


#: The job of the current thread; None outside of a background callback.
current_background: ContextVar[BackgroundJob | None] = ContextVar(
    "stratascope_background", default=None
)


class JobManager(DiskcacheManager):
    """Runs background callbacks in threads.

    Args:
        folder: Where results wait for the page; None: in memory only.
        limit: Most bytes of results.
        max_jobs: Most jobs at once; a quarter of them for each user.
    """

    def __init__(
        self, folder: Path | None = None, *, limit: int = 256 << 20, max_jobs: int = 64
    ) -> None:
        base: Any = BaseBackgroundCallbackManager  # DiskcacheManager's needs a package for forks
        base.__init__(self, None)
        self.handle = None
        self.expire = None
        self._secret = b""
        self._functions: dict[str, Callable[..., Any]] = {}
        self._results = Memo(folder, limit)
        self._max_jobs = max_jobs
        self._lock = threading.Lock()
        self._jobs: dict[str, BackgroundJob] = {}
        self.draining = False
        self._pruned = 0.0

    def drain(self, grace_s: float, fetch_s: float = 2.0) -> None:
        """Start no more jobs, let the running ones finish, and leave the others as they are.

        Jobs have ``grace_s`` seconds to finish, and pages ``fetch_s`` to fetch the results. Other
        pages repeat their requests when a server answers again (``net.js``). What long work has
        finished is stored.
        """
        self.draining = True
        some_ran = any(running.state == "running" for running in list(self._jobs.values()))
        self._wait_while(lambda job: job.state == "running" and not job.is_long(), grace_s)
        with self._lock:
            for running in self._jobs.values():
                running.state = "left" if running.state == "running" else running.state
        self._wait_while(lambda job: job.state == "finished", fetch_s)
        if some_ran:
            time.sleep(min(1.0, fetch_s))  # pages draw the results that they fetched

    def _wait_while(self, true: Callable[[BackgroundJob], bool], seconds: float) -> None:
        """Wait until something is true of no job, at most ``seconds``."""
        late = time.monotonic() + seconds
        while time.monotonic() < late and any(map(true, list(self._jobs.values()))):
            time.sleep(0.05)

    def is_lost(self, key: str) -> bool:
        """Whether no server works on a job, or has its result, although it was started once."""
        return key not in self._jobs

    def close(self) -> None:
        """Cancel all jobs but those left to the next server, and leave Dash's list of managers."""
        for key, running in list(self._jobs.items()):
            if running.state != "left":
                self.terminate_job(key)
        if self in BaseBackgroundCallbackManager.managers:
            BaseBackgroundCallbackManager.managers.remove(self)
        self._results.close()

    # What Dash calls to start a job.

    def make_job_fn(self, fn: Callable[..., Any], progress: bool, key: str | None = None) -> bool:
        """What Dash passes to ``call_job_fn``: whether the callback reports progress.

        Not the function: Dash registers every app's callbacks, under equal names, here.
        """
        if inspect.iscoroutinefunction(fn):
            raise TypeError("background callbacks run in threads and can't be coroutines")
        return progress

    def build_cache_key(self, fn: Callable[..., Any], *_args: Any) -> str:
        """A new id for a job, which keeps it after a restart; a note of the function to call.

        The id is never shared: users share the memo of results instead. It ends with the owner's
        tag, which the gate checks.
        """
        key = str(g.get("again") or secrets.token_hex(16) + owner_tag(current_user.get()))
        self._functions[key] = fn
        return key

    def call_job_fn(self, key: str, job_fn: bool, args: Any, context: Mapping[str, Any]) -> str:
        """Start a job; returns its id."""
        function = self._functions.pop(key)
        page, turn = request_of(context)
        sets = json.dumps(context.get("outputs_list"), sort_keys=True)
        running = BackgroundJob(key, user_of(context), sets=sets, page=page, turn=turn)
        if not running.user.startswith(USER):
            peer = g.get("peer")
            running.address = peer.address if peer is not None else ""
        with self._lock:
            self._prune()
            busy = [other for other in self._jobs.values() if other.state == "running"]
            self._jobs[key] = running
        refusal = self._refusal(running, busy)
        self._open(running)
        self._replace(running)
        if refusal is not None:
            self._finish(running, failure(refusal))
            return key
        if job_fn:
            function = partial(function, partial(self._progress, running))
        self._start(running, function, args, context)
        return key

    def _start(
        self,
        running: BackgroundJob,
        function: Callable[..., Any],
        args: Any,
        context: Mapping[str, Any],
    ) -> None:
        """Call a callback in a thread that inherits only the request's id and the app."""

        def work() -> None:
            current_background.set(running)
            current_user.set(running.user)
            values = AttributeDict(**context)
            values.ignore_register_page = False
            proxy: Any = ProxySetProps  # Dash has no types for it
            values.updated_props = proxy(partial(self._set, running))
            context_value.set(values)
            self._finish(running, _result(function, args))

        thread_context = Context()
        thread_context.run(current_request.set, current_request.get())
        app: Any = get_app  # Dash has no types for it
        thread_context.run(app_context.set, app())
        name = f"job-{running.key[:8]}"
        threading.Thread(target=thread_context.run, args=(work,), name=name, daemon=True).start()

    def _replace(self, new: BackgroundJob) -> None:
        """Cancel the job that ``new`` replaces, or ``new`` if it is late: Dash may not know yet."""
        for other in list(self._jobs.values()):
            if new.replaces(other):
                self.terminate_job(other.key)
            elif other.replaces(new):
                self.terminate_job(new.key)

    def _refusal(self, new: BackgroundJob, busy: list[BackgroundJob]) -> AnalysisError | None:
        if self.draining:
            return shutting_down()
        if len(busy) >= self._max_jobs:
            return BusyError(
                "This server already runs as many requests as it allows.", "Try again in a minute."
            )
        mine = sum(other.user == new.user for other in busy)
        ours = sum(other.address == new.address for other in busy) if new.address else 0
        part = share(self._max_jobs)
        if mine >= part or ours >= max(part, self._max_jobs - part):
            return BusyError(
                "You already run as many requests as this server allows one person.",
                "Wait until one has finished, or cancel one.",
            )
        return None

    def _open(self, running: BackgroundJob) -> None:
        """Announce a job; ``SharedJobManager`` stores it for the other web processes."""

    def _progress(self, running: BackgroundJob, value: Any) -> None:
        values = value if isinstance(value, (list, tuple)) else [value]
        running.progress = to_json(list(values))

    def _set(self, running: BackgroundJob, name: str, props: dict[str, Any]) -> None:
        with self._lock:
            running.props[name] = {**running.props.get(name, {}), **props}

    def _finish(self, running: BackgroundJob, result: str) -> None:
        if running.state == "running":
            self._results.put(running.key, result.encode())
        with self._lock:
            running.ended = time.monotonic()
            if running.state == "running":
                running.state = "finished"

    def _prune(self) -> None:
        """Drop ended jobs that no page fetches: the old ones, and the oldest of too many."""
        now = time.monotonic()
        if now - self._pruned < 1.0:
            return
        self._pruned, kept = now, Counter[str]()
        ended = [running for running in self._jobs.values() if running.ended]
        for running in sorted(ended, key=lambda one: -one.ended):
            full = kept[running.user] >= _KEPT_OF_USER or kept.total() >= _KEPT
            if full or running.stale(now):
                del self._jobs[running.key]
                self._results.remove(running.key)
            else:
                kept[running.user] += 1

    def has_result(self, key: str) -> bool:
        """Whether a page has more to fetch than progress, or the job does not run here any more."""
        one = self._jobs.get(key)
        return one is None or one.state != "running" or bool(one.props)

    # What Dash calls while a job runs, and after it.

    def job_running(self, job: str) -> bool:
        """Whether there is still something to fetch.

        A finished job counts as running until its result was fetched: Dash asks for this after the
        result, and would lose a result that arrived between the two.
        """
        running = self._jobs.get(job)
        return running is not None and running.state in ("running", "finished", "left")

    def terminate_job(self, job: str | None) -> None:
        """Cancel a job; does nothing if it has ended."""
        running = self._jobs.get(job or "")
        if running is None:
            return
        with self._lock:
            if running.state not in ("running", "left"):
                return
            running.state = "cancelled"
            running.ended = time.monotonic()
            requests = tuple(running.requests)
        for request in requests:
            request.cancel()

    def terminate_unhealthy_job(self, job: str) -> bool:
        """Always False: a thread can't die without an error."""
        return False

    def get_progress(self, key: str) -> Any:
        """The progress, if it changed since the last call."""
        running = self._jobs.get(key)
        if running is None:
            return None
        news, running.progress = running.progress, ""
        return json.loads(news) if news else None

    def result_ready(self, key: str) -> bool:
        """Whether the result can be fetched."""
        running = self._jobs.get(key)
        return running is not None and running.state == "finished"

    def get_result(self, key: str, job: str | None) -> Any:
        """The result, once; UNDEFINED until it is ready."""
        running = self._jobs.get(key)
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
        """The values of ``set_props`` since the last call, by component."""
        if (running := self._jobs.get(key)) is None:
            return {}
        with self._lock:
            props, running.props = running.props, {}
        return json.loads(to_json(props)) if props else {}

    def clear_cache_entry(self, key: str) -> None:
        """Delete a result."""
        self._results.remove(key)

    def get_or_create_signing_secret(self, generate: Callable[[], bytes]) -> bytes:
        """A secret of this process, never on disk; the app sets ``server.secret_key`` instead."""
        with self._lock:
            self._secret = self._secret or generate()
        return self._secret


def to_json(value: Any) -> str:
    """Components, figures with numpy arrays and plain values as JSON."""
    text: str = to_json_plotly(value)
    return text


def _result(function: Callable[..., Any], args: Any) -> str:
    """What a callback returns, or its error, as JSON."""
    try:
        if isinstance(args, dict):
            return to_json(function(**args))
        return to_json(function(*(args if isinstance(args, (list, tuple)) else (args,))))
    except PreventUpdate:
        return to_json(_NO_UPDATE)
    except Exception as error:  # noqa: BLE001 - the page shows any error
        return failure(error)


def user_of(context: Mapping[str, Any]) -> str:
    """The owner of a request: the user that the gate admitted, else the page load."""
    args = context.get("args") or {}
    return current_user.get() or page_key(str(args.get("endId") or context.get("remote") or ""))


def request_of(context: Mapping[str, Any]) -> tuple[str, int]:
    """The page load that sent a request, and the request's number; 0 if it has none."""
    args = context.get("args") or {}
    turn = str(args.get("turn") or "")
    return str(args.get("endId") or ""), int(turn) if turn.isdecimal() and len(turn) < 10 else 0
