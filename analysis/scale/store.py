"""What web processes and workers share in Redis beside Celery's own queues and results.

For each memo key, ``lock`` holds the id of the one task that computes it, and ``waiters`` holds the
requests that wait for it. The lock expires unless a waiter renews it. The lock is also the cancel
flag: a worker stops a task whose id is no longer in the lock.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

import redis
from kombu.exceptions import OperationalError
from redis.backoff import ConstantBackoff
from redis.exceptions import LockNotOwnedError
from redis.lock import Lock
from redis.retry import Retry

from analysis.scale.app import LONG, QUEUES, ScaleSettings
from analysis.store.memo import seal, unseal

#: What commands and sent tasks raise if Redis is unreachable or refuses a command.
RedisErrors = (redis.exceptions.RedisError, OperationalError, OSError)

#: Seconds that a request is refused after it stopped two workers; seconds that a task's marks last.
BLAME_S, MARK_S = 3600, 24 * 3600
#: Seconds that a task waits for the requests of a web process that is restarted.
RESTART_S = 60


def connect(settings: ScaleSettings, retries: int = 1, pause_s: float = 0.01) -> Any:
    """Return a Redis client that retries a command while Redis is unreachable."""
    return redis.Redis.from_url(
        settings.url,
        socket_timeout=5.0,
        socket_connect_timeout=2.0,
        health_check_interval=15,
        retry=Retry(ConstantBackoff(pause_s), retries),
    )


class View(NamedTuple):
    """The shared state as one request sees it."""

    task: str | None  # id of the task that computes its key
    state: bytes | None  # the result backend's entry of the task that it waits for
    waiting: tuple[int, ...]  # tasks in each queue
    workers: int  # workers that consume


class Store:
    """The shared state. Thread-safe.

    Args:
        settings: Where Redis is.
        client: A Redis client.
    """

    def __init__(self, settings: ScaleSettings, client: Any) -> None:
        self._settings = settings
        self._redis = client
        self._queues = [settings.celery_prefix + queue for queue in QUEUES]
        self.close = client.close

    def _name(self, kind: str, rest: str) -> str:
        return f"{self._settings.prefix}{kind}:{rest}"

    # For web processes.

    def look(self, key: str = "", state: str | bytes = "") -> View:
        """Read the shared state for a key and for the name of an entry, with one round trip."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.get(self._name("lock", key)).get(state).time()
        pipe.zrange(self._name("workers", "alive"), 0, -1, withscores=True)
        for queue in self._queues:
            pipe.llen(queue)
        task, found, now, workers, *waiting = pipe.execute()
        alive = sum(until >= now[0] for _, until in workers)
        return View(None if task is None else task.decode(), found, tuple(waiting), alive)

    def renew(self, key: str, waiter: str) -> None:
        """Register a waiter, and renew the lock."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.sadd(self._name("waiters", key), waiter)
        pipe.expire(self._name("waiters", key), MARK_S)
        pipe.pexpire(self._name("lock", key), int(1000 * self._settings.lease_s))
        pipe.execute()

    def leave(self, key: str, waiter: str) -> None:
        """Remove a waiter. If it was the last, cancel the task."""
        pipe, waiters = self._redis.pipeline(), self._name("waiters", key)
        pipe.srem(waiters, waiter).scard(waiters).get(self._name("lock", key))
        _, left, task = pipe.execute()
        id = (task or b"").decode()
        if not left and self.release(key, id):
            for queue, messages in zip(self._queues, self._messages(), strict=True):
                if id in messages:
                    self._redis.lrem(queue, 0, messages[id])

    def part(self, key: str, waiter: str) -> None:
        """Remove a waiter that returns after a restart, and keep its task until then."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.srem(self._name("waiters", key), waiter)
        pipe.pexpire(self._name("lock", key), 1000 * RESTART_S)
        pipe.execute()

    def acquire(self, key: str, id: str) -> bool:
        """Make ``id`` the task that computes a key; False if the key has a task already."""
        return bool(self._lock(key).acquire(token=id))

    def release(self, key: str, id: str) -> bool:
        """Remove the lock if it is this task's."""
        try:
            self._lock(key).do_release(id)
        except LockNotOwnedError:
            return False
        return True

    def _lock(self, key: str) -> Lock:
        return Lock(self._redis, self._name("lock", key), self._settings.lease_s, blocking=False)

    def place(self, id: str) -> tuple[str, int]:
        """Return a task's queue and its place among all that wait (1 is next); "", 0 if in none."""
        before = 0
        for queue, messages in zip(QUEUES, self._messages(), strict=True):
            if id in messages:
                return queue, before + list(messages).index(id) + 1
            before += len(messages)
        return "", 0

    def _messages(self) -> list[dict[str, bytes]]:
        """Return Celery's messages by task id, the next one first, for each queue."""
        pipe = self._redis.pipeline(transaction=False)
        for queue in self._queues:
            pipe.lrange(queue, 0, -1)
        return [{id_of(message): message for message in found[::-1]} for found in pipe.execute()]

    def others_wait(self, user: str) -> bool:
        """Whether long work of another user waits in the queue."""
        messages = self._redis.lrange(self._queues[QUEUES.index(LONG)], 0, -1)
        return any(user_of(message) not in ("", user) for message in messages)

    def find(self, key: str, name: str = "") -> bytes | None:
        """Return the bytes that ``keep`` stored; None if they are missing or damaged."""
        sealed = self._redis.get(self._name("result", name or key))
        return unseal(key, sealed) if isinstance(sealed, bytes) else None

    # For workers.

    def take(self, key: str, id: str) -> bool:
        """Start a task; False if a worker has it already or nobody waits for it."""
        pipe = self._redis.pipeline()
        pipe.get(self._name("lock", key)).set(self._name("taken", id), b"1", nx=True, ex=MARK_S)
        lock, taken = pipe.execute()
        return bool(taken) and lock == id.encode()

    def put_back(self, id: str) -> None:
        """Allow a worker to take a task again after it was sent again."""
        self._redis.delete(self._name("taken", id))

    def is_wanted(self, key: str, id: str) -> bool:
        """Whether somebody waits for a task."""
        return bool(self._redis.get(self._name("lock", key)) == id.encode())

    def keep(self, key: str, data: bytes, name: str = "", user: str = "") -> None:
        """Store an answer's bytes for all requests, or for a short time under ``name``.

        If the answers of the user have more than ``user_bytes`` in all, the oldest are removed.
        """
        seconds = 300 if name else self._settings.result_s
        entry = self._name("result", name or key)
        self._redis.set(entry, seal(key, data), ex=seconds)
        self._redis.delete(self._name("stopped", key))
        self._keep_within_share(user, entry)

    def _keep_within_share(self, user: str, entry: str) -> None:
        """Note an answer of a user, and remove the user's oldest beyond the share."""
        owner = hashlib.sha256(f"owner {user}".encode()).hexdigest()[:16]
        kept, lives = self._name("kept", owner), self._settings.result_s
        seconds, micro = self._redis.time()
        pipe = self._redis.pipeline()
        pipe.zadd(kept, {entry: seconds + micro / 1e6}).expire(kept, lives)
        pipe.zremrangebyscore(kept, "-inf", seconds - lives).zrange(kept, 0, -1)
        entries = pipe.execute()[-1]
        for each in entries:
            pipe.strlen(each)
        sizes = pipe.execute()
        total = sum(sizes)
        for each, size in zip(entries[:-1], sizes, strict=False):
            if total <= self._settings.user_bytes:
                break
            pipe.delete(each).zrem(kept, each)
            total -= size
        pipe.execute()

    def blame(self, key: str, more: int = 1) -> int:
        """Add ``more`` to the count of workers that stopped at a key; return the count."""
        pipe = self._redis.pipeline()
        pipe.incrby(self._name("stopped", key), more).expire(self._name("stopped", key), BLAME_S)
        return int(pipe.execute()[0])

    def enrol(self, worker: str, seconds: float) -> None:
        """Count a worker as alive for ``seconds`` from now; 0 removes it."""
        name = self._name("workers", "alive")
        now = self._redis.time()
        self._redis.zadd(name, {worker: now[0] + seconds})
        self._redis.zremrangebyscore(name, "-inf", now[0])


def id_of(message: bytes) -> str:
    """Return the id of the task in one of Celery's messages."""
    return _header(message, "id")


def user_of(message: bytes) -> str:
    """Return the user of the task in one of Celery's messages; empty if it names none."""
    return _header(message, "user")


def _header(message: bytes, name: str) -> str:
    try:
        return str(json.loads(message)["headers"][name])
    except (ValueError, KeyError, TypeError):
        return ""
