"""Where Redis is, and how long what lies there is kept."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ScaleSettings:
    """How web processes and workers meet.

    Attributes:
        url: ``redis://host:port/0``, ``rediss://...`` or ``unix:///path``.
        prefix: Put before every key, so that several installations can share a Redis.
        result_s: Seconds a result is kept for other web processes.
        result_bytes: Largest result that is sent through Redis.
        lease_s: Seconds after which a web process that went silent no longer waits for anything.
        lost_s: Seconds of a worker's silence after which its computation is given to another.
        patience_s: Seconds without Redis after which those who wait are told.
        beat_s: Seconds between a busy worker's signs of life.
        grace_s: Seconds a worker that is told to stop has for a click that runs.
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

    @property
    def broker(self) -> str:
        """The address as Celery spells it."""
        path = self.url.removeprefix("unix://")
        return f"redis+socket://{path}" if path != self.url else self.url
