"""Rate limits: token buckets, one for each person.

In one process they use the monotonic clock, so that a clock set back locks nobody out. In Redis
they use the server's clock, and all web processes share them.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Protocol

#: Most buckets in memory; the least recently used one is dropped first.
_MOST = 20_000

#: Takes tokens from a bucket in one step: a hash of [left, at], kept until the bucket is full.
_TAKE = """
local now = redis.call('TIME')
now = tonumber(now[1]) + tonumber(now[2]) / 1e6
local size, rate, count = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local kept = redis.call('HMGET', KEYS[1], 'left', 'at')
local left, at = tonumber(kept[1]) or size, tonumber(kept[2]) or now
left = math.min(size, left + math.max(0, now - at) * rate)
local wait = 0
if left >= count then left = left - count else wait = (count - left) / rate end
redis.call('HSET', KEYS[1], 'left', tostring(left), 'at', tostring(now))
redis.call('EXPIRE', KEYS[1], math.ceil(size / rate) + 1)
return tostring(wait)
"""


@dataclass(frozen=True, slots=True)
class Rate:
    """The limit of a bucket.

    Attributes:
        size: Most tokens at once.
        per_second: Tokens added each second.
    """

    size: float
    per_second: float


class Buckets(Protocol):
    """A store of buckets."""

    def take(self, key: str, rate: Rate, count: float = 1.0) -> float:
        """Take ``count`` tokens from a bucket; a negative count returns them.

        Returns:
            0 if they were taken, else the seconds until there are enough.
        """
        ...


class LocalBuckets:
    """Buckets of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str, rate: Rate, count: float = 1.0) -> float:
        """As in ``Buckets``."""
        with self._lock:
            now = time.monotonic()
            left, at = self._kept.pop(key, (rate.size, now))
            left = min(rate.size, left + (now - at) * rate.per_second)
            wait = 0.0 if left >= count else (count - left) / rate.per_second
            self._kept[key] = (min(rate.size, left - (count if wait == 0 else 0)), now)
            if len(self._kept) > _MOST:
                self._kept.popitem(last=False)
        return wait


class RedisBuckets:
    """Buckets that several web processes share.

    Args:
        client: A ``redis`` client.
        fallback: The buckets to use while Redis does not answer.
        prefix: Put before every key.
    """

    def __init__(self, client: Any, fallback: Buckets, prefix: str) -> None:
        self._prefix = prefix
        self._take = client.register_script(_TAKE)
        self._fallback = fallback

    def take(self, key: str, rate: Rate, count: float = 1.0) -> float:
        """As in ``Buckets``."""
        from redis.exceptions import RedisError

        try:
            wait = self._take(
                keys=[f"{self._prefix}rate:{key}"], args=[rate.size, rate.per_second, count]
            )
        except RedisError:
            return self._fallback.take(key, rate, count)
        return float(wait)


def whole_seconds(wait: float) -> int:
    """Whole seconds to wait, at least 1."""
    return max(1, math.ceil(wait))
