"""Settings and status of the service."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from analysis import paths
from analysis.store.memo import MemoStatus
from analysis.worker.messages import Limits


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """Folders, limits and connections of the service.

    Attributes:
        cache_dir: Folder of the memo; None for the user's cache folder.
        memo: Whether results are kept on disk.
        limits: Limits on prompts, memory, disk and time.
        cancel_grace_s: Seconds that a cancelled computation has to stop before the worker is
            restarted.
        function: Dotted name of the function that computes, in the worker process.
        redis_url: URL of the Redis that connects workers; empty for a worker of this process.
        redis_prefix: Prefix of every Redis key.
    """

    cache_dir: Path | None = None
    memo: bool = True
    limits: Limits = field(default_factory=Limits)
    cancel_grace_s: float = 30.0
    function: str = "analysis.worker.engine:perform"
    redis_url: str = field(default="", repr=False)
    redis_prefix: str = "stratascope:"

    def worker_limits(self) -> Limits:
        """The limits with the worker's folder for finished prompts of suites."""
        folder = (self.cache_dir or paths.cache_dir()) / "tasks"
        return replace(self.limits, tasks=str(folder) if self.memo else "")


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """The state of the service, for the page's footer, health checks and metrics.

    Attributes:
        memo: The memo's own status.
        queued: Number of waiting computations.
        worker_pid: Process id of the local worker; None if there is none.
        forwards: Number of forward passes since the start.
        computed: Number of requests that workers answered since the start.
        workers: Number of model workers, local or remote.
        resident: Names of the models that the local worker has loaded.
    """

    memo: MemoStatus
    queued: int
    worker_pid: int | None
    forwards: int
    computed: int
    workers: int = 0
    resident: tuple[str, ...] = ()
