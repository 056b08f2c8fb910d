"""What several web processes must know together: who asked how much, and which sessions are over.

In Redis where there is one. While it does not answer, each process goes by what it knows itself:
limits are then each process's own, and a session that was ended elsewhere may live until it is
back. Nobody gets in who has not signed in.
"""

from __future__ import annotations

from typing import Any

from dash_app.security.buckets import Buckets, LocalBuckets, RedisBuckets
from dash_app.security.sessions import Ended, RedisEnded
from dash_app.settings import Settings


def shared(settings: Settings) -> tuple[Buckets, Ended]:
    """Where limits are counted, and where ended sessions are kept."""
    buckets = LocalBuckets()
    ended = Ended(settings.data_dir / "ended-sessions", settings.session_hours)
    if not settings.redis_url:
        return buckets, ended
    client, prefix = _client(settings.redis_url), settings.redis_prefix
    return RedisBuckets(client, buckets, prefix), RedisEnded(client, ended, prefix)


def _client(url: str) -> Any:
    """A client that gives up within a second: every request waits for it."""
    import redis

    return redis.Redis.from_url(url, socket_timeout=1.0, socket_connect_timeout=1.0)
