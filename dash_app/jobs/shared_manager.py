"""The job manager where several web processes serve one page: what they must all know is in Redis.

A job is still a thread of the process that was asked first. A page's next poll may reach another
process, or another machine: state, progress, ``set_props`` and result are kept for it as JSON. The
process shows that it lives; where it died, the page is told so at its next poll.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from typing import Any

from analysis.scale.board import Trouble, connect
from analysis.scale.settings import ScaleSettings
from dash_app.errors import failure, forgotten
from dash_app.jobs.manager import JobManager
from dash_app.jobs.thread import Running, to_json

_log = logging.getLogger("stratascope.jobs")

_KEEP_S = 3600
#: Seconds between two looks for a cancel, and until a silent process counts as dead.
LOOK_S, ALIVE_S = 0.25, 5

#: KEYS: job. ARGV: state it must have, state it gets, field, value. Gives 1 if it had it, -1 if
#: there is no such job.
_MOVE = """
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return -1 end
if state ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'state', ARGV[2])
if ARGV[3] ~= '' then redis.call('HSET', KEYS[1], ARGV[3], ARGV[4]) end
return 1
"""
#: KEYS: job. ARGV: field. Gives it, and forgets it.
_PULL = """
local found = redis.call('HGET', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[1], ARGV[1])
return found
"""
#: KEYS: a line of jobs that replace each other. ARGV: turn, job, seconds to keep. Gives the job
#: that is replaced: the one before, or this one where a later one came first.
_REPLACE = """
local turn, job = unpack(redis.call('HMGET', KEYS[1], 'turn', 'job'))
if turn and tonumber(turn) > tonumber(ARGV[1]) then return ARGV[2] end
redis.call('HSET', KEYS[1], 'turn', ARGV[1], 'job', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return job
"""


class SharedJobManager(JobManager):
    """A ``JobManager`` whose jobs any web process can answer for.

    Args:
        settings: Where Redis is.
        max_jobs: How many may run at once in this process.
    """

    def __init__(self, settings: ScaleSettings, *, max_jobs: int = 64) -> None:
        super().__init__(None, max_jobs=max_jobs)
        self._prefix = settings.prefix
        self._redis: Any = connect(settings)
        self._move = self._redis.register_script(_MOVE)
        self._pull = self._redis.register_script(_PULL)
        self._replaced_by = self._redis.register_script(_REPLACE)
        self._owner = secrets.token_hex(8)
        self._busy, self._closing = threading.Event(), threading.Event()
        self._minder = threading.Thread(target=self._mind, name="job-minder", daemon=True)
        self._starting = threading.Lock()

    def close(self) -> None:
        """Cancel what runs, and take no further part in Dash's registry."""
        self._closing.set()
        self._busy.set()
        if self._minder.ident is not None:
            self._minder.join()
        super().close()
        self._redis.close()

    # What the process that runs a job writes.

    def _open(self, running: Running) -> None:
        self._guarded(self._publish, running)
        with self._starting:
            if self._minder.ident is None:
                self._minder.start()
        self._busy.set()

    def _publish(self, running: Running) -> None:
        """Let the others know of it."""
        name = self._name(running.key)
        pipe = self._redis.pipeline()
        pipe.set(self._name(self._owner, "web"), b"1", ex=ALIVE_S)
        pipe.hset(name, mapping={"state": running.state, "owner": self._owner})
        pipe.expire(name, _KEEP_S)
        pipe.execute()

    def _replace(self, new: Running) -> None:
        """Cancel what ``new`` replaces, wherever it runs, or itself if it comes late."""
        super()._replace(new)
        if new.page and new.turn:
            said = [new.turn, new.key, _KEEP_S]
            old = self._guarded(self._replaced_by, [self._name(new.line(), "turn")], said)
            self.terminate_job(old.decode() if old else None)

    def _progress(self, running: Running, value: Any) -> None:
        super()._progress(running, value)
        self._guarded(self._redis.hset, self._name(running.key), "progress", running.progress)

    def _set(self, running: Running, name: str, props: dict[str, Any]) -> None:
        super()._set(running, name, props)
        line = self._name(running.key, "props")
        self._guarded(self._redis.rpush, line, to_json({name: props}))
        self._guarded(self._redis.expire, line, _KEEP_S)

    def _finish(self, running: Running, outcome: str) -> None:
        super()._finish(running, outcome)
        said = ["running", "finished", "result", outcome]
        moved = self._guarded(self._move, [self._name(running.key)], said)
        if moved == -1 and running.state == "finished":  # Redis was restarted and has forgotten it
            self._guarded(self._publish, running)
            self._guarded(self._redis.hset, self._name(running.key), "result", outcome)

    def _mind(self) -> None:
        """Show that this process lives, and look for cancels that reached another."""
        while not self._closing.is_set():
            mine = [running for running in list(self._running.values()) if not running.ended]
            if not mine:
                self._busy.clear()
                self._busy.wait()
                continue
            self._guarded(self._look, mine)
            self._closing.wait(LOOK_S)

    def _look(self, mine: list[Running]) -> None:
        pipe = self._redis.pipeline(transaction=False)
        pipe.set(self._name(self._owner, "web"), b"1", ex=ALIVE_S)
        for running in mine:
            pipe.hget(self._name(running.key), "state")
        for running, state in zip(mine, pipe.execute()[1:], strict=True):
            if state is None and running.state == "running":
                self._publish(running)  # Redis was restarted and has forgotten it
            elif state == b"cancelled":
                super().terminate_job(running.key)

    # What Dash calls, in whichever process the page reached.

    def job_running(self, job: str) -> bool:
        """Whether there is still something to fetch."""
        state, _ = self._state(job)
        return state in ("running", "finished") if state else super().job_running(job)

    def terminate_job(self, job: str | None) -> None:
        """Cancel a job, wherever it runs."""
        if job:
            self._guarded(self._move, [self._name(job)], ["running", "cancelled", "", ""])
        super().terminate_job(job)

    def get_progress(self, key: str) -> Any:
        """What to show, if it changed since the last time."""
        news = self._guarded(self._pull, [self._name(key)], ["progress"])
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
        state, alive = self._state(key)
        if not state and key not in self._running:
            time.sleep(2 * LOOK_S)  # Redis may just have been restarted: its process tells it anew
            state, alive = self._state(key)
        if not state:
            return super().get_result(key, job)
        if state == "running" and not alive and self._take(key, "running"):
            return json.loads(failure(forgotten()))
        if state != "finished" or not self._take(key, "finished"):
            return self.UNDEFINED
        result = self._guarded(self._pull, [self._name(key)], ["result"])
        self._forget(key)
        return json.loads(result if result is not None else failure(forgotten()))

    def get_updated_props(self, key: str) -> dict[str, Any]:
        """What ``set_props`` set since the last time, by component."""
        mine = super().get_updated_props(key)
        lines = self._guarded(self._pull_props, key)
        if lines is None:
            return mine
        props: dict[str, Any] = {}
        for line in lines:
            for name, value in json.loads(line).items():
                props[name] = {**props.get(name, {}), **value}
        return props

    def _pull_props(self, key: str) -> list[bytes]:
        pipe = self._redis.pipeline()
        pipe.lrange(self._name(key, "props"), 0, -1)
        pipe.delete(self._name(key, "props"))
        lines: list[bytes] = pipe.execute()[0]
        return lines

    def _take(self, key: str, state: str) -> bool:
        moved = self._guarded(self._move, [self._name(key)], [state, "collected", "", ""])
        return bool(moved == 1)

    def _forget(self, key: str) -> None:
        running = self._running.get(key)
        if running is not None:
            running.state = "collected"
        self._results.remove(key)

    def _state(self, key: str | None) -> tuple[str, bool]:
        """A job's state, empty if Redis knows none, and whether its process lives."""
        if not key:
            return "", False
        said = self._guarded(self._redis.hmget, self._name(key), "state", "owner")
        if not said or said[0] is None:
            return "", False
        owner = (said[1] or b"").decode()
        alive = owner == self._owner or bool(
            self._guarded(self._redis.exists, self._name(owner, "web"))
        )
        return said[0].decode(), alive

    def _name(self, key: str, kind: str = "page") -> str:
        return f"{self._prefix}{kind}:{key}"

    def _guarded(self, work: Any, *said: Any) -> Any:
        """Say something to Redis; None if it is away: this process then answers for its own."""
        try:
            return work(*said)
        except Trouble as error:
            _log.warning("Redis can't be reached (%s)", type(error).__name__)
        except ValueError:  # "I/O on closed file": a job that ends while the process closes
            if not self._closing.is_set():
                raise
        return None
