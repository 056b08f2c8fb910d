"""Settings and status of the service."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from analysis import paths
from analysis.store.memo import MemoStatus
from analysis.worker.messages import Limits


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """Folders and limits of the service.

    Attributes:
        cache_dir: Folder of the memo; None for the user's cache folder.
        memo: Whether results are kept on disk.
        memo_bytes: Bytes of results kept on disk.
        recent_bytes: Bytes of results kept in memory.
        task_bytes: Bytes of finished prompts of suites kept on disk.
        max_suite_prompts: Largest number of prompts in a suite.
        max_prompt_tokens: Largest number of tokens in a prompt, template included.
        max_new_tokens: Largest number of tokens to generate.
        model_bytes: Bytes of weights that the worker keeps in memory.
        trace_bytes: Bytes of forward passes that the worker keeps in memory.
        max_queue: Largest number of waiting computations.
        deadline_s: Seconds of computing allowed for one request.
        cancel_grace_s: Seconds that a cancelled computation has to stop before the worker is
            restarted.
        dtype: The dtype of the weights; None for the default.
        device: The device of the weights; None for the best one.
        function: Dotted name of the function that computes, in the worker process.
        redis_url: URL of the Redis that connects workers; empty for a worker of this process.
        redis_prefix: Prefix of every Redis key.
    """

    cache_dir: Path | None = None
    memo: bool = True
    memo_bytes: int = 2 << 30
    recent_bytes: int = 64 << 20
    task_bytes: int = 512 << 20
    max_suite_prompts: int = 2000
    max_prompt_tokens: int = 512
    max_new_tokens: int = 64
    model_bytes: int = 4 << 30
    trace_bytes: int = 512 << 20
    max_queue: int = 200
    deadline_s: float = 180.0
    cancel_grace_s: float = 30.0
    dtype: str | None = None
    device: str | None = None
    function: str = field(default="analysis.worker.engine:perform")
    redis_url: str = field(default="", repr=False)
    redis_prefix: str = "stratascope:"

    def limits(self) -> Limits:
        """The limits that the worker needs."""
        return Limits(
            self.max_prompt_tokens,
            self.max_new_tokens,
            self.model_bytes,
            self.trace_bytes,
            self.dtype,
            self.device,
            str((self.cache_dir or paths.cache_dir()) / "tasks") if self.memo else "",
            self.task_bytes,
        )


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
