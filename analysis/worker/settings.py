"""What the service is set up with, and what it says of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from analysis import paths
from analysis.store.memo import MemoStatus
from analysis.worker.messages import Limits


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """Where things lie and what they may cost.

    Attributes:
        cache_dir: Folder of the memo; None: the user's cache folder.
        memo: Whether results are kept on disk at all.
        memo_bytes: Bytes of results kept on disk.
        recent_bytes: Bytes of results kept in memory.
        task_bytes: Bytes of finished prompts of suites kept on disk.
        max_suite_prompts: Most prompts of one suite.
        max_prompt_tokens: Longest prompt, template included.
        max_new_tokens: Most tokens to generate after it.
        model_bytes: Bytes of weights kept resident in the worker.
        trace_bytes: Bytes of forward passes kept there.
        max_queue: Computations that may wait.
        deadline_s: Seconds of computing allowed to one request.
        cancel_grace_s: Seconds a cancelled computation has to stop before the worker is restarted.
        dtype: Of the weights; None for the default.
        device: Where they lie; None for the best one there.
        function: Dotted name of what computes, in the worker process.
        redis_url: Where workers on other machines are met; empty: a worker of this process.
        redis_prefix: Put before every key there.
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
        """What of this the worker needs to know."""
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
    """How the service does, for the page's footer, health checks and metrics.

    Attributes:
        memo: The memo's own status.
        queued: Computations that wait.
        worker_pid: The worker's process; None while there is none.
        forwards: Forward passes made since the start.
        computed: Requests that the worker answered since the start.
        workers: Model workers that are there: this process's own, or those elsewhere.
        resident: Models that this process's worker has loaded.
    """

    memo: MemoStatus
    queued: int
    worker_pid: int | None
    forwards: int
    computed: int
    workers: int = 0
    resident: tuple[str, ...] = ()
