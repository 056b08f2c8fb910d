"""Messages between the web process and its model worker."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from analysis import errors, paths
from analysis.contract.specs import Spec
from analysis.errors import AnalysisError
from analysis.store.memo import MemoStatus


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the service and its workers; ``Settings.limits`` makes them.

    Attributes:
        max_prompt_tokens: Largest number of tokens in a prompt, template included.
        max_new_tokens: Largest number of tokens to generate.
        max_suite_prompts: Largest number of prompts in a suite.
        max_queue: Largest number of waiting computations.
        deadline_s: Seconds of computing allowed for one request.
        silence_s: Seconds without a sign of life after which a worker is replaced.
        model_bytes: Most bytes of weights in memory. Beyond that, the worker drops the model that
            was used least recently.
        trace_bytes: Most bytes of forward passes in memory, by the same rule.
        recent_bytes: Most bytes of results in memory.
        memo_bytes: Most bytes of results on disk.
        task_bytes: Most bytes of finished prompts of suites on disk.
        dtype: The dtype of the weights; None for the model's default.
        device: The device of the weights; None to choose.
        tasks: Folder for finished prompts of suites; empty to store none.
    """

    max_prompt_tokens: int = 256
    max_new_tokens: int = 64
    max_suite_prompts: int = 2000
    max_queue: int = 200
    deadline_s: float = 600.0
    silence_s: float = 10.0
    model_bytes: int = 6 << 30
    trace_bytes: int = 1 << 30
    recent_bytes: int = 64 << 20
    memo_bytes: int = 2 << 30
    task_bytes: int = 512 << 20
    dtype: str | None = None
    device: str | None = None
    tasks: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """One computation.

    Attributes:
        kind: The technique's name in ``analysis.registry``.
        model: The model's name.
        fingerprint: The fingerprint of its weights.
        specs: The spec. If it applies to a trace, the ``TraceSpec`` comes before it.
        resumable: Whether it keeps what it has finished, so that it can be stopped and continued.
        other: The fingerprint of the second model's weights; empty if the spec names none.
    """

    kind: str
    model: str
    fingerprint: str
    specs: tuple[Spec[Any], ...] = ()
    resumable: bool = False
    other: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A result as bytes, and its cost.

    Attributes:
        data: ``codec.encode`` of the result.
        fingerprint: The fingerprint of the model that computed it.
        forwards: Number of forward passes.
        resident: Names of the models that are loaded now.
    """

    data: bytes
    fingerprint: str
    forwards: int = 0
    resident: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """To the worker: run this request."""

    number: int
    request: Request
    limits: Limits


@dataclass(frozen=True, slots=True)
class Cancel:
    """To the worker: stop this request if it runs."""

    number: int


@dataclass(frozen=True, slots=True)
class Ready:
    """From the worker: the libraries are imported; requests are accepted."""


@dataclass(frozen=True, slots=True)
class Alive:
    """From the worker, every second: a sign of life."""


@dataclass(frozen=True, slots=True)
class Started:
    """From the worker: this request runs now."""

    number: int


@dataclass(frozen=True, slots=True)
class Stepped:
    """From the worker: the progress of a request."""

    number: int
    done: int
    total: int
    label: str


@dataclass(frozen=True, slots=True)
class Done:
    """From the worker: the answer."""

    number: int
    answer: Answer


@dataclass(frozen=True, slots=True)
class Failed:
    """From the worker: the error of a request; ``kind`` names a class of ``analysis.errors``."""

    number: int
    kind: str
    message: str
    hint: str

    def error(self) -> AnalysisError:
        """The exception for the waiting threads."""
        return errors.rebuild(self.kind, self.message, self.hint)


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
