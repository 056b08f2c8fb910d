"""Rate limits: a bucket for each person, which fills at a steady rate and overflows.

On the monotonic clock, so that a clock set back locks nobody out; in Redis on the server's, and
for all web processes together.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Protocol

#: Buckets that are remembered; the one longest unused is forgotten first, full or not.
_MOST = 20_000

#: Takes one out of a bucket in one step: [left, stamp] in a hash, kept until it would be full.
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
    """How much is allowed.

    Attributes:
        size: What may come at once.
        per_second: How fast it is allowed again.
    """

    size: float
    per_second: float


class Buckets(Protocol):
    """Where the buckets are."""

    def take(self, key: str, rate: Rate, count: float = 1.0) -> float:
        """Take ``count`` out of a bucket: 0, or, untaken, the seconds until it would be there."""
        ...


class LocalBuckets:
    """Buckets of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str, rate: Rate, count: float = 1.0) -> float:
        """As in ``Buckets``; a negative count gives back."""
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
    """The same for many web processes.

    Args:
        client: Of ``redis``.
        otherwise: Where to count while Redis does not answer.
        prefix: Put before every key.
    """

    def __init__(self, client: Any, otherwise: Buckets, prefix: str) -> None:
        self._prefix = prefix
        self._take = client.register_script(_TAKE)
        self._otherwise = otherwise

    def take(self, key: str, rate: Rate, count: float = 1.0) -> float:
        """As in ``Buckets``."""
        from redis.exceptions import RedisError

        try:
            wait = self._take(
                keys=[f"{self._prefix}rate:{key}"], args=[rate.size, rate.per_second, count]
            )
        except RedisError:
            return self._otherwise.take(key, rate, count)
        return float(wait)


def whole_seconds(wait: float) -> int:
    """Seconds to wait, as a header and a person are told."""
    return max(1, math.ceil(wait))
