"""The job manager for several web processes: they share the state of all jobs in Redis.

A job is a thread of the process that received its first request. The page's next poll may reach
another process, or another machine. So state, progress, ``set_props`` and result are also stored
in Redis, as JSON. Each process sends a heartbeat. If it dies, the next poll tells the page.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from typing import Any

from analysis.scale.app import ScaleSettings
from analysis.scale.store import RedisErrors, connect
from dash_app.errors import failure, forgotten
from dash_app.jobs.manager import BackgroundJob, JobManager, to_json

_log = logging.getLogger("stratascope.jobs")

#: Seconds that a job is kept, between two heartbeats, and until a silent process counts as dead.
_KEEP_S, BEAT_S, ALIVE_S = 3600, 0.25, 5


class SharedJobManager(JobManager):
    """A ``JobManager`` whose jobs any web process can answer for.

    Args:
        settings: Where Redis is.
        max_jobs: How many may run at once in this process.
    """

    def __init__(self, settings: ScaleSettings, *, max_jobs: int = 64) -> None:
        super().__init__(None, max_jobs=max_jobs)
        self._prefix = settings.prefix
        self._redis = connect(settings)
        self._owner = secrets.token_hex(8)
        self._busy, self._closing = threading.Event(), threading.Event()
        self._heart = threading.Thread(target=self._beat, name="job-heart", daemon=True)
        self._starting = threading.Lock()

    def close(self) -> None:
        """Cancel what runs, and take no further part in Dash's registry."""
        self._closing.set()
        self._busy.set()
        if self._heart.ident is not None:
            self._heart.join()
        super().close()
        # Whoever asks for a job that this process left learns at once that nobody works on it.
        self._guarded(self._redis.delete, self._name(self._owner, "web"))
        self._redis.close()

    # What the process that runs a job writes.

    def _open(self, running: BackgroundJob) -> None:
        self._guarded(self._publish, running)
        with self._starting:
            if self._heart.ident is None:
                self._heart.start()
        self._busy.set()

    def _publish(self, running: BackgroundJob, **fields: str) -> None:
        """Store a job, and that this process runs it."""
        name = self._name(running.key)
        pipe = self._redis.pipeline()
        pipe.set(self._name(self._owner, "web"), b"1", ex=ALIVE_S)
        pipe.hset(name, mapping={"state": running.state, "owner": self._owner, **fields})
        pipe.expire(name, _KEEP_S)
        pipe.execute()

    def _replace(self, new: BackgroundJob) -> None:
        """Cancel what ``new`` replaces, wherever it runs, or ``new`` itself if it comes late."""
        super()._replace(new)
        if new.page and new.turn:
            old = self._guarded(self._take_turn, new)
            self.terminate_job(old.decode() if old else None)

    def _take_turn(self, new: BackgroundJob) -> bytes | None:
        """Store the newest request of a callback; return the job that it makes obsolete."""
        name = self._name(new.line(), "turn")

        def step(pipe: Any) -> Any:
            turn, job = pipe.hmget(name, "turn", "job")
            pipe.multi()
            if turn is not None and int(turn) > new.turn:
                return new.key.encode()
            pipe.hset(name, mapping={"turn": new.turn, "job": new.key}).expire(name, _KEEP_S)
            return job

        found: bytes | None = self._redis.transaction(step, name, value_from_callable=True)
        return found

    def _progress(self, running: BackgroundJob, value: Any) -> None:
        super()._progress(running, value)
        self._guarded(self._redis.hset, self._name(running.key), "progress", running.progress)

    def _set(self, running: BackgroundJob, name: str, props: dict[str, Any]) -> None:
        super()._set(running, name, props)
        entries = self._name(running.key, "props")
        self._guarded(self._redis.rpush, entries, to_json({name: props}))
        self._guarded(self._redis.expire, entries, _KEEP_S)

    def _finish(self, running: BackgroundJob, outcome: str) -> None:
        super()._finish(running, outcome)
        if running.state == "left":
            return
        found = self._move(running.key, "running", "finished", result=outcome)
        if found is None and running.state == "finished":  # Redis was restarted empty
            self._guarded(lambda: self._publish(running, result=outcome))

    def _beat(self) -> None:
        """Show that this process lives, and look for jobs that another process cancelled."""
        while not self._closing.is_set():
            active = [running for running in list(self._jobs.values()) if not running.ended]
            if not active:
                self._busy.clear()
                self._busy.wait()
                continue
            self._guarded(self._check, active)
            self._closing.wait(BEAT_S)

    def _check(self, active: list[BackgroundJob]) -> None:
        pipe = self._redis.pipeline(transaction=False)
        pipe.set(self._name(self._owner, "web"), b"1", ex=ALIVE_S)
        for running in active:
            pipe.hget(self._name(running.key), "state")
        for running, state in zip(active, pipe.execute()[1:], strict=True):
            if state is None and running.state == "running":  # Redis was restarted empty
                self._publish(running)
            elif state == b"cancelled":
                super().terminate_job(running.key)

    # What Dash calls, in whichever process the page reached.

    def is_lost(self, key: str) -> bool:
        """Whether no process works on a job, or has its result."""
        state, alive = self._settled_state(key)
        return state == "running" and not alive if state else super().is_lost(key)

    def job_running(self, job: str) -> bool:
        """Whether there is still something to fetch."""
        state, _ = self._state(job)
        return state in ("running", "finished") if state else super().job_running(job)

    def terminate_job(self, job: str | None) -> None:
        """Cancel a job, wherever it runs."""
        if job:
            self._move(job, "running", "cancelled")
        super().terminate_job(job)

    def get_progress(self, key: str) -> Any:
        """What to show, if it changed since the last time."""
        news = self._guarded(self._pull, key, "progress")
        mine = super().get_progress(key)
        return json.loads(news) if news else (None if self._state(key)[0] else mine)

    def result_ready(self, key: str) -> bool:
        """Whether the result can be fetched."""
        state, alive = self._state(key)
        if not state:
            return super().result_ready(key)
        return state == "finished" or (state == "running" and not alive)

    def get_result(self, key: str, job: str | None) -> Any:
        """The result, once; an error if the process that worked on it is gone."""
        state, alive = self._settled_state(key)
        if not state:
            return super().get_result(key, job)
        if state == "running" and not alive and self._take(key, "running"):
            return json.loads(failure(forgotten()))
        if state != "finished" or not self._take(key, "finished"):
            return self.UNDEFINED
        result = self._guarded(self._pull, key, "result")
        running = self._jobs.get(key)
        if running is not None:
            running.state = "collected"
        self._results.remove(key)
        return json.loads(result if result is not None else failure(forgotten()))

    def get_updated_props(self, key: str) -> dict[str, Any]:
        """What ``set_props`` set since the last time, by component."""
        mine = super().get_updated_props(key)
        entries = self._guarded(self._pull_props, key)
        if entries is None:
            return mine
        props: dict[str, Any] = {}
        for entry in entries:
            for name, value in json.loads(entry).items():
                props[name] = {**props.get(name, {}), **value}
        return props

    def _pull_props(self, key: str) -> list[bytes]:
        name = self._name(key, "props")
        entries: list[bytes] = self._redis.pipeline().lrange(name, 0, -1).delete(name).execute()[0]
        return entries

    def _pull(self, key: str, field: str) -> bytes | None:
        """Read a job's field once."""
        name = self._name(key)
        found: bytes | None = (
            self._redis.pipeline().hget(name, field).hdel(name, field).execute()[0]
        )
        return found

    def _move(self, key: str, old: str, new: str, **fields: str) -> bytes | None:
        """Change a job's state from ``old`` to ``new``; return the state that it had."""
        name = self._name(key)

        def step(pipe: Any) -> Any:
            found = pipe.hget(name, "state")
            pipe.multi()
            if found == old.encode():
                pipe.hset(name, mapping={"state": new, **fields})
            return found

        state: bytes | None = self._guarded(
            lambda: self._redis.transaction(step, name, value_from_callable=True)
        )
        return state

    def _take(self, key: str, state: str) -> bool:
        return self._move(key, state, "collected") == state.encode()

    def _state(self, key: str | None) -> tuple[str, bool]:
        """A job's state, empty if Redis knows none, and whether its process lives."""
        if not key:
            return "", False
        found = self._guarded(self._redis.hmget, self._name(key), "state", "owner")
        if not found or found[0] is None:
            return "", False
        owner = (found[1] or b"").decode()
        alive = owner == self._owner or bool(
            self._guarded(self._redis.exists, self._name(owner, "web"))
        )
        return found[0].decode(), alive

    def _settled_state(self, key: str) -> tuple[str, bool]:
        """Like ``_state``; after a restart of Redis, the job's process stores it again first."""
        found = self._state(key)
        if not found[0] and key not in self._jobs:
            time.sleep(2 * BEAT_S)
            found = self._state(key)
        return found

    def _name(self, key: str, kind: str = "page") -> str:
        return f"{self._prefix}{kind}:{key}"

    def _guarded(self, work: Any, *arguments: Any) -> Any:
        """Call Redis; None while it is unreachable: this process then answers for its own jobs."""
        try:
            return work(*arguments)
        except RedisErrors as error:
            _log.warning("Redis can't be reached (%s)", type(error).__name__)
        except ValueError:  # "I/O on closed file": a job that ends while the process closes
            if not self._closing.is_set():
                raise
        return None
