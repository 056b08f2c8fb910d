"""The web process's side: send computations to the workers and wait for their answers."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from analysis.contract.jobs import Job, Priority, Progress, share
from analysis.errors import BusyError, CancelledError, WorkerStoppedError, rebuild
from analysis.scale.app import CLICKS, LONG, ScaleSettings, encode_request, make_app, send
from analysis.scale.store import RedisErrors, Store, View, connect
from analysis.worker.messages import Answer, Request

_log = logging.getLogger("stratascope.scale")

#: Seconds between two reads of a task's state, two checks of its place and lease, and two attempts
#: while Redis is unreachable.
LOOK_S, CHECK_S, RETRY_S = 0.05, 0.5, 0.5
#: Most seconds until the requests of a closing process have ended.
CLOSE_S = 2.0
#: Most tasks sent for one request, and most workers that a request may stop.
TRIES, MOST_STOPPED = 5, 2

NO_REASON = ("AnalysisError", "The worker failed and gave no reason.", "Run it again.")
TRY_SMALLER = "It may need more memory than there is: try a shorter prompt or a smaller model."


@dataclass(eq=False, slots=True)
class Pending:
    """A request that waits for an answer. Times are on the monotonic clock.

    Attributes:
        key: Requests with equal keys share one computation.
        job: Whose request it is.
        queue, arguments: Of its task.
        id: Of the task that computes it; empty while none does.
        owns: Whether it sent that task.
        sent: How many tasks it sent.
        progress: How far it has come; None before Redis was asked.
        sign, sign_at: The task's last sign of life, and when it came.
        woken: Set when it should look at once: it is cancelled, or another one ended.
        read_at, checked_at: When it last read the shared state; when it last renewed its lease
            and read its place in the queue.
    """

    key: str
    job: Job
    queue: str
    arguments: list[Any]
    id: str = ""
    owns: bool = False
    sent: int = 0
    progress: Progress | None = None
    sign: bytes | None = None
    sign_at: float = 0.0
    woken: threading.Event = field(default_factory=threading.Event)
    read_at: float = float("-inf")
    checked_at: float = 0.0

    def follow(self, id: str, *, owns: bool = False) -> None:
        """Wait for this task from now on."""
        self.id, self.owns, self.sign = id, owns, None
        self.sign_at, self.checked_at = time.monotonic(), 0.0


class Remote:
    """A ``Backend`` whose computations run in workers elsewhere.

    Args:
        settings: Where Redis is.
        on_answer: Called with a request's key and its answer, before the answer is returned.
        max_queue: Most computations that may wait, for all web processes together.
    """

    def __init__(
        self,
        settings: ScaleSettings,
        on_answer: Callable[[str, Request, Answer], None],
        *,
        max_queue: int = 200,
    ) -> None:
        self._settings = settings
        self._on_answer = on_answer
        self._max_queue = max_queue
        self._store = Store(settings, connect(settings))
        self._app = make_app(settings)
        self._pending: list[Pending] = []
        self._lock = threading.Lock()
        self._closing = False

    def start(self) -> None:
        """Do nothing: the workers are started elsewhere."""

    def close(self) -> None:
        """End all requests of this process. Their tasks stay: the pages ask again elsewhere."""
        self._closing = True
        for one in self._all():
            one.woken.set()
        late = time.monotonic() + CLOSE_S
        while self._all() and time.monotonic() < late:
            time.sleep(LOOK_S)
        self._app.close()
        self._store.close()

    @property
    def queued(self) -> int:
        """How many computations wait."""
        with suppress(*RedisErrors):
            return sum(self._store.look().waiting) + sum(not one.id for one in self._all())
        return 0

    @property
    def pid(self) -> None:
        """None: this process has no worker of its own."""
        return None

    @property
    def workers(self) -> int:
        """How many workers consume."""
        with suppress(*RedisErrors):
            return self._store.look().workers
        return 0

    def find(self, key: str) -> bytes | None:
        """Return the bytes of an answer that any worker stored."""
        with suppress(*RedisErrors):
            return self._store.find(key)
        return None

    def ask(self, key: str, request: Request, job: Job, deadline_s: float) -> Answer:
        """Have a request computed, or wait for the same computation. See ``Backend.ask``."""
        queue = LONG if job.priority >= Priority.LONG else CLICKS
        one = Pending(key, job, queue, [key, encode_request(request), job.user, deadline_s])
        with self._lock:
            if sum(other.job.user == job.user for other in self._pending) >= share(self._max_queue):
                raise BusyError(
                    "Too many of your requests are waiting.", "Wait until some have finished."
                )
            self._pending.append(one)
        try:
            answer = self._wait(one)
        finally:
            with self._lock:
                self._pending.remove(one)
                for other in self._pending:
                    other.woken.set()
            with suppress(*RedisErrors):  # without it, the lease ends by itself
                leave = self._store.part if self._closing else self._store.leave
                leave(key, job.id)
        self._on_answer(key, request, answer)
        return answer

    def _all(self) -> list[Pending]:
        with self._lock:
            return list(self._pending)

    def _wait(self, one: Pending) -> Answer:
        pause_s, shown = 0.01, None
        with one.job.waking(one.woken.set):
            while True:
                one.job.check()
                if self._closing:
                    hint = "Run it again in a moment."
                    raise CancelledError("The server is shutting down.", hint)
                try:
                    answer, pause_s = self._advance(one), min(1.2 * pause_s, LOOK_S)
                except RedisErrors as error:
                    self._endure(one, error)
                    answer, pause_s = None, RETRY_S
                if answer is not None:
                    return answer
                if one.progress is not None and one.progress != shown:
                    shown = one.progress
                    one.job.report(shown)
                one.woken.wait(pause_s)
                one.woken.clear()

    def _endure(self, one: Pending, error: BaseException) -> None:
        """Wait for Redis to come back, but not for long, and not with a new request."""
        _log.warning("Redis can't be reached (%s)", type(error).__name__)
        one.sign_at = time.monotonic()  # Redis was silent, not the worker
        if one.sign_at - one.read_at > self._settings.patience_s:
            raise WorkerStoppedError(
                "The job queue (Redis) can't be reached.",
                "Run it again in a minute, or tell the administrator. Your input is not lost.",
            ) from error

    def _advance(self, one: Pending) -> Answer | None:
        """Take a request one step further; return its answer once there is one."""
        view = self._store.look(one.key, self._app.backend.get_key_for_task(one.id or "none"))
        now = one.read_at = time.monotonic()
        status, found = self._app.backend.decode_state(view.state if one.id else None)
        if status in ("SUCCESS", "FAILURE"):
            return self._finish(one, found if status == "SUCCESS" else {"error": NO_REASON})
        check = now - one.checked_at > CHECK_S
        if check:
            one.checked_at = now
            self._store.renew(one.key, one.job.id)
        if view.task is None:
            self._send_in_turn(one, view)
        elif view.task != one.id:
            one.follow(view.task)
        elif status == "PROGRESS":
            one.progress = progress_of(found)
            if view.state != one.sign:
                one.sign, one.sign_at = view.state, now
        elif check:
            self._read_place(one)
        if one.id and now - one.sign_at > self._settings.lost_s:
            self._give_up_task(one)
        return None

    def _finish(self, one: Pending, result: dict[str, Any]) -> Answer | None:
        """Return the answer of a task that ended; None if Redis has lost it."""
        if "error" in result:
            raise rebuild(*map(str, result["error"]))
        data = self._store.find(one.key, str(result.get("answer", "")))
        if data is None:
            self._store.release(one.key, one.id)
            one.follow("")
            return None
        return Answer(data, str(result.get("fingerprint")), int(result.get("forwards") or 0))

    def _send_in_turn(self, one: Pending, view: View) -> None:
        """Send a task, unless its user has as many in flight as there are workers."""
        before = self._all()
        before = before[: before.index(one)]
        waiting = sum(view.waiting) + sum(
            not other.id or other.progress is None for other in before
        )
        if one.progress is None and waiting >= self._max_queue:
            raise BusyError("Too many requests are waiting.", "Try again in a minute.")
        line = [one.job.user, one.queue]
        mine = [other for other in before if [other.job.user, other.queue] == line]
        if sum(other.owns or not other.id for other in mine) >= max(1, view.workers):
            one.follow("")
            one.progress = Progress(0, 0, "Waiting", waiting + 1)
            return
        stopped = self._store.blame(one.key, 0)
        if stopped >= MOST_STOPPED:
            message = f"This request stopped a worker {stopped} times and is not tried again."
            raise WorkerStoppedError(message, TRY_SMALLER)
        if one.sent >= TRIES:
            raise WorkerStoppedError("The answer was lost several times.", "Run it again.")
        id = uuid.uuid4().hex
        if self._store.acquire(one.key, id):
            one.follow(id, owns=True)
            try:
                send(self._app, one.queue, id, one.arguments)
            except RedisErrors:
                self._store.release(one.key, id)
                raise
            one.sent += 1

    def _read_place(self, one: Pending) -> None:
        """Read the place in the queue. Send a long task that a click waits for as a click too."""
        queue, position = self._store.place(one.id)
        if queue:
            one.sign_at = time.monotonic()
            one.progress = Progress(0, 0, "Waiting", position)
        if queue == LONG and one.queue == CLICKS:
            send(self._app, CLICKS, one.id, one.arguments)

    def _give_up_task(self, one: Pending) -> None:
        """Send a task again if its worker is silent or its message was lost."""
        if not self._store.release(one.key, one.id):
            return  # another process did it
        stopped = self._store.blame(one.key, 0 if one.sign is None else 1)
        _log.warning("a task is lost; %d workers stopped at it so far", stopped)


def progress_of(state: dict[str, Any]) -> Progress:
    """Return a running task's progress."""
    try:
        done, total, label, position = state["progress"]
        return Progress(int(done), int(total), str(label), int(position))
    except (KeyError, ValueError, TypeError):
        return Progress(0, 0, "Starting")
