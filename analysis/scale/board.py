"""All that is said to Redis about computations: who asks, who works, what came of it.

Every step is one script that Redis runs whole, so that any number of web processes and workers
may take it at once. Lua because only a script can look and act in one step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import Any

import redis

from analysis.errors import AnalysisError, BusyError, WorkerStoppedError
from analysis.scale.settings import ScaleSettings
from analysis.scale.wire import pack_error
from analysis.store.memo import seal, unseal
from analysis.worker.messages import Answer

#: What goes wrong while Redis is away, or refuses for want of memory.
Trouble = (redis.exceptions.RedisError, OSError)

STOPPED_TWICE = WorkerStoppedError(
    "The worker stopped twice while it worked on this.",
    "It may need more memory than there is: try a shorter prompt or a smaller model.",
)


@dataclass(frozen=True, slots=True)
class View:
    """How a computation does.

    Attributes:
        state: "queued", "running", "done", "failed", "cancelled" or "gone".
        beat: Counts its worker's signs of life.
        seconds: Seconds it has really run.
        progress: JSON of done, total and label; empty before the first step.
        error: Why it failed, as ``wire.unpack_error`` reads it.
        answer: Name of its bytes.
        fingerprint, forwards: Of the answer.
        ahead: How many computations go before it.
    """

    state: str
    beat: str = "0"
    seconds: float = 0.0
    progress: str = ""
    error: str = ""
    answer: str = ""
    fingerprint: str = ""
    forwards: int = 0
    ahead: int = 0


@dataclass(frozen=True, slots=True)
class Taken:
    """A computation that this worker has taken."""

    key: str
    id: str
    request: str
    priority: str
    user: str


def connect(settings: ScaleSettings) -> redis.Redis:
    """A client whose calls end after seconds, whatever becomes of the server."""
    client: redis.Redis = redis.Redis.from_url(
        settings.url, socket_timeout=5.0, socket_connect_timeout=2.0, health_check_interval=15
    )
    return client


def script(name: str) -> str:
    """The text of ``lua/name.lua``."""
    return (resources.files("analysis.scale") / "lua" / f"{name}.lua").read_text(encoding="utf-8")


class Board:
    """Speaks to Redis. Safe for several threads.

    Args:
        settings: Where it is.
    """

    def __init__(self, settings: ScaleSettings) -> None:
        self.settings = settings
        self.redis = connect(settings)
        self._scripts = {
            name: self.redis.register_script(script(name))
            for name in ("join", "look", "leave", "take", "beat", "land", "give_back", "lose")
        }

    def close(self) -> None:
        """Let go of the connections."""
        self.redis.close()

    def name(self, rest: str) -> str:
        """A key of ours."""
        return self.settings.prefix + rest

    @cached_property
    def news(self) -> str:
        """The channel on which a key is named whose computation has changed."""
        return self.name("news")

    def _run(self, name: str, *said: Any, client: Any = None) -> Any:
        return self._scripts[name]([self.settings.prefix], list(said), client=client)

    # What web processes say.

    def join(
        self, key: str, id: str, request: str, user: str, kind: str, waiter: str, most: int
    ) -> tuple[str, bool]:
        """Ask for a computation: its id, and whether it is a new one.

        Raises:
            WorkerStoppedError: If it was the end of two workers before.
            BusyError: If too many wait.
        """
        lease = self.settings.lease_s
        said = self._run("join", key, id, request, user, kind, waiter, lease, most)
        verdict = said[0].decode()
        if verdict == "busy":
            raise BusyError("Too many requests are waiting.", "Try again in a minute.")
        if verdict == "refused":
            raise WorkerStoppedError(
                f"This request stopped a worker {int(said[1])} times and is not tried again.",
                STOPPED_TWICE.hint,
            )
        return said[1].decode(), verdict == "new"

    def look(self, claims: Sequence[tuple[str, str, str]]) -> list[View]:
        """How computations do, given (key, id, waiter) of each; renews the claims."""
        pipe = self.redis.pipeline(transaction=False)
        for claim in claims:
            self._run("look", *claim, self.settings.lease_s, client=pipe)
        return [_view(said) for said in pipe.execute()]

    def calls(self) -> Any:
        """A subscription to the names of computations that have changed."""
        client: Any = self.redis  # its pubsub has no types
        calls = client.pubsub(ignore_subscribe_messages=True)
        calls.subscribe(self.news)
        return calls

    def leave(self, key: str, id: str, waiter: str) -> None:
        """Give up a claim."""
        self._run("leave", key, id, waiter)

    def lose(self, key: str, id: str, beat: str) -> str:
        """A worker was silent too long: "queued" again, "failed" for good, or "alive" after all."""
        found: str = self._run("lose", key, id, beat, pack_error(STOPPED_TWICE)).decode()
        return found

    def fetch(self, key: str, name: str) -> bytes | None:
        """The bytes of an answer, checked; None if they are gone or not what was put there."""
        sealed = self.redis.get(self.name(name))
        return unseal(key, sealed) if isinstance(sealed, bytes) else None

    def result(self, key: str) -> bytes | None:
        """The bytes that any worker kept for this key."""
        return self.fetch(key, f"result:{key}")

    def queued(self) -> int:
        """How many computations wait."""
        pipe = self.redis.pipeline(transaction=False)
        for kind in ("click", "long"):
            pipe.zcard(self.name(f"queue:{kind}"))
        return sum(pipe.execute())

    def workers(self) -> int:
        """How many workers have shown themselves lately."""
        count: Any = self.redis.zcount(self.name("workers"), self._now(), "+inf")
        return int(count)

    # What workers say.

    def enrol(self, worker: str) -> None:
        """A worker is there, for the next few seconds."""
        name, now = self.name("workers"), self._now()
        pipe = self.redis.pipeline(transaction=False)
        pipe.zremrangebyscore(name, "-inf", now - 3600)
        pipe.zadd(name, {worker: now + self.settings.lease_s})
        pipe.execute()

    def retire(self, worker: str) -> None:
        """A worker goes."""
        self.redis.zrem(self.name("workers"), worker)

    def take(self, worker: str, kinds: Sequence[str]) -> Taken | None:
        """The next computation of these kinds that somebody waits for."""
        said = self._run("take", worker, *kinds)
        return Taken(*(part.decode() for part in said)) if said else None

    def beat(self, taken: Taken, worker: str, progress: str, seconds: float) -> str:
        """Still at it: "wanted", "unwanted" by anybody, or "lost" to another worker."""
        found: str = self._run(
            "beat", taken.key, taken.id, worker, progress, f"{seconds:.3f}"
        ).decode()
        return found

    def land(self, taken: Taken, worker: str, answer: Answer, *, keep: bool) -> None:
        """Hand in an answer; ``keep`` it for whoever asks the same later."""
        name = f"result:{taken.key}" if keep else f"answer:{taken.id}"
        seconds = self.settings.result_s if keep else 300
        data = seal(taken.key, answer.data)
        said = ("", name, data, seconds, answer.fingerprint, answer.forwards, "0")
        self._run("land", taken.key, taken.id, worker, *said)

    def fail(self, taken: Taken, worker: str, error: AnalysisError) -> None:
        """Say why there is no answer."""
        died = "1" if isinstance(error, WorkerStoppedError) else "0"
        said = (pack_error(error), "", b"", 0, "", 0, died)
        self._run("land", taken.key, taken.id, worker, *said)

    def give_back(self, taken: Taken, worker: str) -> None:
        """Return what can't be finished."""
        self._run("give_back", taken.key, taken.id, worker)

    def _now(self) -> float:
        said: Any = self.redis.time()
        seconds, micro = said
        return float(seconds) + float(micro) / 1e6


def _view(said: list[bytes]) -> View:
    words = [word.decode(errors="replace") for word in said]
    if len(words) == 1:
        return View(words[0])
    state, beat, seconds, progress, error, answer, fingerprint, forwards, ahead = words
    counts = int(_number(forwards)), int(_number(ahead))
    return View(state, beat, _number(seconds), progress, error, answer, fingerprint, *counts)


def _number(said: str) -> float:
    """A number that Redis keeps; 0 where it is none: one damaged field must cost nobody else."""
    try:
        found = float(said)
    except ValueError:
        return 0.0
    return found if math.isfinite(found) else 0.0
