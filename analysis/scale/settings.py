"""Where Redis is, and how long its entries live."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ScaleSettings:
    """Settings that web processes and workers share.

    Attributes:
        url: ``redis://host:port/0``, ``rediss://...`` or ``unix:///path``.
        prefix: Prepended to every key, so that several installations can share one Redis.
        result_s: Seconds that an answer is kept for all web processes.
        result_bytes: Largest answer that is sent through Redis.
        lease_s: Seconds after which a silent web process no longer counts as waiting.
        lost_s: Seconds of silence after which a worker counts as lost.
        patience_s: Seconds without Redis after which waiting requests fail.
        beat_s: Seconds between two state updates of a running computation.
        grace_s: Seconds that a stopping worker gives to an interactive computation.
        turn_s: Seconds that long work computes before another user's has a turn, the first time.
    """

    url: str = field(repr=False)
    prefix: str = "stratascope:"
    result_s: int = 24 * 3600
    result_bytes: int = 64 << 20
    lease_s: float = 10.0
    lost_s: float = 6.0
    patience_s: float = 20.0
    beat_s: float = 0.2
    grace_s: float = 20.0
    turn_s: float = 10.0

    @property
    def broker(self) -> str:
        """The address as Celery's broker expects it."""
        path = self.url.removeprefix("unix://")
        return f"redis+socket://{path}" if path != self.url else self.url

    @property
    def celery_prefix(self) -> str:
        """What is prepended to the keys of Celery's own queues and results."""
        return f"{self.prefix}celery:"

    @property
    def results(self) -> str:
        """The address as Celery's result backend expects it."""
        return self.broker.removeprefix("redis+")
