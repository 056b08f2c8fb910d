"""A worker: Celery in this process, the resident model in a child of it.

Celery runs at most one task of each queue at a time, in two threads. Each hands its computation
to the embedded queue that also serves a single machine. That queue orders the two, and suspends
long work at its next pause while a click is computed.

Long work that can be continued runs in slices: when its turn is over and another user's long work
waits, it stops, and its task goes to the end of the queue. Each turn is twice as long as the last.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import astuple, dataclass
from functools import partial
from typing import Any

from celery import bootsteps, current_task
from celery.exceptions import Ignore
from celery.worker import state as celery_state
from kombu import messaging
from kombu.common import ignore_errors

from analysis.contract.jobs import Job, Priority, Progress
from analysis.errors import AnalysisError, CancelledError, WorkerStoppedError
from analysis.scale.app import (
    CLICKS,
    LONG,
    QUEUES,
    TASK,
    ScaleSettings,
    decode_request,
    make_app,
    send,
)
from analysis.scale.store import RedisErrors, Store, connect
from analysis.worker.backend import Local
from analysis.worker.messages import Limits, Request
from analysis.worker.supervisor import Supervisor

_log = logging.getLogger("stratascope.scale")

#: Seconds between two attempts at storing something while Redis is unreachable.
RETRY_S = 0.5
#: Seconds without a tick of Celery's event loop after which this worker does not count as alive,
#: and seconds after which the consumer restarts if it leaves tasks in a queue.
TICK_S, STALL_S = 5.0, 5.0


class LongQueue(bootsteps.ConsumerStep):  # type: ignore[misc]
    """Consumes the queue for long work, one task at a time, on a channel of its own.

    Celery limits the unacknowledged tasks of a channel, not of a queue. On one channel, two long
    tasks would keep a click waiting.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, on_tick: Callable[[], None], **options: Any) -> None:
        super().__init__(consumer, **options)
        consumer.initial_prefetch_count = 1  # of Celery's own channel, which consumes clicks
        self._parent = consumer
        self._on_tick = on_tick

    def start(self, parent: Any) -> None:
        """Consume, and call ``on_tick`` every second for as long as the event loop runs."""
        super().start(parent)
        parent.timer.call_repeatedly(1.0, self._on_tick)

    def get_consumers(self, channel: Any) -> list[Any]:
        """Return the one consumer."""
        channel.basic_qos(0, 1, False)
        queue, handler = self._parent.app.amqp.queues[LONG], self._parent.create_task_handler()
        make: Any = messaging.Consumer
        return [make(channel, [queue], on_message=handler, accept=["json"])]

    def stop(self, parent: Any) -> None:
        """Stop consuming. The channel stays open for acknowledgements, as in Celery."""
        ignore: Any = ignore_errors
        for consumer in self.consumers or ():
            ignore(parent.connection, consumer.cancel)


@dataclass(eq=False, slots=True)
class Run:
    """A task that this worker computes: its request to the model's process, and its progress."""

    key: str
    queue: str
    job: Job  # its id is the task's
    progress: Progress
    turns: int = -1  # that it had before; -1 if it can't be continued
    began: float = 0.0  # when its turn began, monotonic; 0 before it computes
    yields: bool = False  # whether it was stopped for another user's work


class Worker:
    """The worker of one device.

    Args:
        settings: Where Redis is.
        function: Dotted name of what computes, in the model's process.
        limits: Limits on prompts and memory.
    """

    def __init__(self, settings: ScaleSettings, function: str, limits: Limits) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        self._settings = settings
        client = connect(settings, int(settings.patience_s / RETRY_S), RETRY_S)
        self._store = Store(settings, client)
        self._model = Local(Supervisor(function, limits, lambda _key, _request, _answer: None))
        self._app = make_app(settings)
        self._app.task(name=TASK, after_return=self._after_return)(self._compute)
        self._app.steps["consumer"].add(LongQueue)
        self._runs: dict[str, Run] = {}
        self._lock = threading.Lock()  # guards the runs: no state is stored after a result
        self._gone = threading.Event()
        self._ticked_at, self._left_at, self._stalled = time.monotonic(), 0.0, False
        self._pulse = threading.Thread(target=self._show_life, name="pulse", daemon=True)

    def run(self, first: Request | None = None) -> int:
        """Work until a signal stops it.

        Args:
            first: A model to load at once.

        Raises:
            WorkerStoppedError: If Redis can't be reached at the start.
        """
        try:
            with connect(self._settings) as client:
                client.ping()
        except RedisErrors as error:
            raise WorkerStoppedError(
                f"Redis can't be reached ({type(error).__name__}).",
                "Start Redis, or set STRATASCOPE_REDIS_URL to its address.",
            ) from error
        self._model.start()
        if first is not None:
            with suppress(AnalysisError):  # the first request for it reports the error
                self._model.ask("preload", first, Job(priority=Priority.LONG), 3600.0)
        self._pulse.start()
        try:
            return self._serve()
        finally:
            self._gone.set()
            self._pulse.join()
            self._model.close()
            with suppress(*RedisErrors):
                self._store.enrol(self.name, 0)
            self._app.close()
            self._store.close()

    def _serve(self) -> int:
        worker: Any = self._app.Worker(
            hostname=f"stratascope@{self.name}",
            pool="threads",
            concurrency=2,
            queues=[CLICKS],
            loglevel="WARNING",
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            quiet=True,
            on_tick=self._tick,
        )
        worker.start()
        return int(worker.exitcode or 0)

    # The task.

    def _compute(
        self, key: str, request: Any, user: str, deadline_s: float, turns: int = 0
    ) -> dict[str, Any]:
        """Compute an answer and store its bytes; the result says where they are."""
        task = current_task.request
        queue = task.delivery_info["routing_key"]
        if not self._store.take(key, task.id):
            raise Ignore
        priority = Priority.LONG if queue == LONG else Priority.INTERACTIVE
        run = Run(key, queue, Job(task.id, user, priority), Progress(0, 0, "Starting"))
        run.job.on_progress = partial(self._progress, run)
        with self._lock:
            self._runs[task.id] = run
        try:
            self._beat(run)
            decoded = decode_request(request)
            run.turns = turns if decoded.resumable and queue == LONG else -1
            return self._answer(run, decoded, deadline_s)
        except CancelledError as error:
            if run.yields:
                left = max(deadline_s - (time.monotonic() - run.began), 1.0)
                self._send_on(run, [key, request, user, left, turns + 1])
            else:
                self._store.release(key, task.id)  # a request that still waits sends it again
            raise Ignore from error
        except RedisErrors as error:
            _log.warning("a task's answer could not be stored (%s)", type(error).__name__)
            raise Ignore from error
        except AnalysisError as error:
            if isinstance(error, WorkerStoppedError):
                self._store.blame(key)
            return {"error": [type(error).__name__, error.message, error.hint]}
        finally:
            with self._lock:
                self._runs.pop(task.id, None)

    @staticmethod
    def _progress(run: Run, progress: Progress) -> None:
        run.progress = progress
        if not run.began and not progress.queue_position:
            run.began = time.monotonic()

    def _send_on(self, run: Run, arguments: list[Any]) -> None:
        """Send a task that yielded once more, to the end of its queue, under the same id."""
        with self._lock:
            self._runs.pop(run.job.id, None)  # no state is stored from now on
        backend: Any = self._app.backend
        backend.delete(backend.get_key_for_task(run.job.id))  # it waits again
        self._store.put_back(run.job.id)
        send(self._app, LONG, run.job.id, arguments)

    def _answer(self, run: Run, request: Request, deadline_s: float) -> dict[str, Any]:
        if self._store.find(run.key) is not None:
            return {"answer": "", "fingerprint": request.fingerprint}
        answer = self._model.ask(run.key, request, run.job, deadline_s)
        if len(answer.data) > self._settings.result_bytes:
            raise AnalysisError(
                f"The result has {len(answer.data) >> 20} MiB, more than is sent from a "
                "worker to the page.",
                "Ask for less: a shorter prompt, fewer candidates or links.",
            )
        name = "" if answer.fingerprint == request.fingerprint else run.job.id
        self._store.keep(run.key, answer.data, name, run.job.user)
        return {"answer": name, "fingerprint": answer.fingerprint, "forwards": answer.forwards}

    def _after_return(self, *event: Any) -> None:
        """Release the lock: Celery has stored the result."""
        _status, _result, id, (key, *_rest), *_ = event
        self._store.release(key, id)

    # Signs of life.

    def _tick(self) -> None:
        self._ticked_at = time.monotonic()
        if self._stalled:
            self._stalled = False
            raise ConnectionError("This worker left tasks in a queue.")  # Celery reconnects

    def _show_life(self) -> None:
        stop_at, enrol_at = float("inf"), 0.0
        while not self._gone.wait(self._settings.beat_s):
            now = time.monotonic()
            stopping = celery_state.should_stop is not None
            if stopping or celery_state.should_terminate is not None:
                stop_at = min(stop_at, now + self._settings.grace_s)
                self._stop_some(everything=now >= stop_at)
            ticks = now - self._ticked_at < TICK_S
            with suppress(*RedisErrors):
                if ticks and now >= enrol_at:
                    self._store.enrol(self.name, self._settings.lease_s)
                    enrol_at = now + self._settings.lease_s / 4
                for run in list(self._runs.values()):
                    self._beat(run)
                    self._take_turns(run)
                if ticks and not stopping:
                    self._check_consumer()

    def _check_consumer(self) -> None:
        """Make Celery reconnect if a queue has tasks and this worker runs none of them."""
        now = time.monotonic()
        busy = {run.queue for run in list(self._runs.values())}
        waiting = zip(QUEUES, self._store.look().waiting, strict=True)
        if not any(count and queue not in busy for queue, count in waiting):
            self._left_at = 0.0
        elif not self._left_at:
            self._left_at = now
        elif now - self._left_at > STALL_S:
            _log.error("tasks were left in a queue for %g s: the consumer restarts", STALL_S)
            self._stalled, self._left_at = True, 0.0

    def _beat(self, run: Run) -> None:
        """Store the state of a task, or cancel it if nobody waits for it."""
        if not self._store.is_wanted(run.key, run.job.id):
            run.job.cancel()
            return
        with self._lock:
            if run.job.id in self._runs:
                state = {"progress": astuple(run.progress), "beat": time.monotonic()}
                self._app.backend.store_result(run.job.id, state, "PROGRESS")

    def _take_turns(self, run: Run) -> None:
        """Stop long work that can be continued if its turn is over and another user's waits."""
        if run.turns < 0 or not run.began or run.yields:
            return
        spent = time.monotonic() - run.began
        if spent >= self._settings.turn_s * 2**run.turns and self._store.others_wait(run.job.user):
            run.yields = True
            run.job.cancel()

    def _stop_some(self, *, everything: bool) -> None:
        """Cancel long work, so that another worker takes it; with ``everything``, clicks too."""
        for run in list(self._runs.values()):
            if everything or run.queue == LONG:
                run.job.cancel()
