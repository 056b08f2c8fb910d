"""Who computes what is not in the memo: a model worker of this process, or workers elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from analysis.job import Job
from analysis.worker.keeper import Keeper
from analysis.worker.messages import Answer, Request
from analysis.worker.waiting import ask

if TYPE_CHECKING:
    from analysis.service import ServiceSettings

Keep = Callable[[str, Request, Answer], None]


class Backend(Protocol):
    """What the service asks of either."""

    def start(self) -> None:
        """Be ready before the first request."""

    def close(self) -> None:
        """Stop; whoever still waits gets CancelledError."""

    def ask(self, key: str, request: Request, job: Job, deadline_s: float) -> Answer:
        """Have a request computed; see ``waiting.ask`` for what it raises."""
        ...

    def find(self, key: str) -> bytes | None:
        """An answer that is kept beside this process's own memo, or None."""
        ...

    @property
    def queued(self) -> int:
        """How many computations wait."""
        ...

    @property
    def pid(self) -> int | None:
        """The model worker's process; None while there is none, or it is elsewhere."""
        ...

    @property
    def workers(self) -> int:
        """How many workers there are."""
        ...


class Local:
    """The resident model worker of this process, behind its keeper."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self.start = keeper.start
        self.close = keeper.close

    def ask(self, key: str, request: Request, job: Job, deadline_s: float) -> Answer:
        """As ``waiting.ask`` has it."""
        return ask(self._keeper, key, request, job, deadline_s)

    def find(self, key: str) -> bytes | None:
        """Nothing: the memo of this process is all there is."""
        return None

    @property
    def queued(self) -> int:
        """How many computations wait."""
        return self._keeper.queued

    @property
    def pid(self) -> int | None:
        """The worker's process id; None while there is none."""
        return self._keeper.pid

    @property
    def workers(self) -> int:
        """One, once it has started."""
        return int(self.pid is not None)


def backend_of(settings: ServiceSettings, keep: Keep) -> Backend:
    """Who computes, as the settings have it; Celery and redis are imported only where needed."""
    if settings.redis_url:
        from analysis.scale.backend import Remote
        from analysis.scale.settings import ScaleSettings

        scale = ScaleSettings(settings.redis_url, settings.redis_prefix)
        return Remote(scale, keep, max_queue=settings.max_queue)
    grace = settings.cancel_grace_s
    limits = settings.limits()
    keeper = Keeper(
        settings.function, limits, keep, max_queue=settings.max_queue, cancel_grace_s=grace
    )
    return Local(keeper)
