"""The one facade the app calls: memo, then queue, then compute, then memo.

Importable without torch. All calls block their thread until the answer is
there and raise nothing but ``AnalysisError`` and its subclasses.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from typing import Any, TypeVar, cast

from analysis import codec, paths
from analysis.errors import AnalysisError, StoreError
from analysis.job import Job, Priority, Progress
from analysis.learned import shelf
from analysis.questions import Questions
from analysis.requests import ON_MODEL, ON_TRACE, STUDIES, asked
from analysis.results import ModelInfo, RunResult
from analysis.service_limits import check
from analysis.service_settings import ServiceSettings, ServiceStatus
from analysis.specs import RunSpec, Spec, TraceSpec, cache_key
from analysis.store import Memo
from analysis.worker.backend import backend_of
from analysis.worker.messages import Answer, Request
from analysis.worker.observed import Observed, Told

__all__ = ["Job", "Priority", "Progress", "Service", "ServiceSettings", "ServiceStatus"]

Result = TypeVar("Result")
_log = logging.getLogger("stratascope.service")

#: Seconds of computing allowed to a suite.
SUITE_DEADLINE_S = 3600.0


def catalog_fingerprint(name: str, dtype: str | None) -> str:
    """What identifies the weights and dtype of a model on offer, found without loading them.

    Raises:
        UnknownModelError: If it is not on offer: a URL must not name paths or hub ids.
    """
    from analysis.models import catalog, identity

    return identity.fingerprint(catalog.offered(name), dtype)


class Service(Questions):
    """Answers requests out of the memo, or has the model worker compute them.

    Args:
        settings: Limits and places.
        fingerprint: From a model's name and dtype to what identifies its weights.
    """

    def __init__(
        self,
        settings: ServiceSettings | None = None,
        fingerprint: Callable[[str, str | None], str] = catalog_fingerprint,
    ) -> None:
        self.settings = settings or ServiceSettings()
        self._fingerprint = fingerprint
        folder = (self.settings.cache_dir or paths.cache_dir()) / "memo"
        self._memo = Memo(
            folder if self.settings.memo else None,
            self.settings.memo_bytes,
            self.settings.recent_bytes,
        )
        self._forwards = self._computed = 0
        self._backend = Observed(backend_of(self.settings, self._keep))

    def start(self) -> None:
        """Start the model worker now, so that the first request need not wait for its imports."""
        self._backend.start()

    def observe(self, told: Told) -> None:
        """Have ``told`` hear of every computation that ends."""
        self._backend.told = told

    def warm(self, model: str) -> None:
        """Have a model loaded, whatever the memo knows of it already.

        Workers elsewhere see to that themselves.
        """
        if self.settings.redis_url:
            return
        request = Request("info", model, self._identify(model), ())
        self._backend.ask(self._key(model, ()), request, Job(), self.settings.deadline_s)

    def ready(self, model: str) -> bool:
        """Whether a question about a model would be worked on at once."""
        return self._backend.ready(model)

    def close(self) -> None:
        """Stop the worker and finish writing; whoever still waits gets CancelledError."""
        self._backend.close()
        self._memo.close()

    def __enter__(self) -> Service:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, spec: RunSpec, job: Job | None = None) -> RunResult:
        """Run a prompt: its tokens, the answer, and the model's choice at each position.

        Raises:
            PromptError: If the prompt is empty or over the limit (tokens are counted first).
            SpecError: If more new tokens are asked for than allowed.
        """
        return self._answer(RunResult, "run", spec.model, (spec,), job)

    def derive(self, trace: TraceSpec, spec: Spec, job: Job | None = None) -> Any:
        """What is asked of one forward pass: any spec of ``requests.ON_TRACE``.

        Raises:
            SpecError: If it is none of them, or asks for what does not exist.
        """
        kind, result = asked(ON_TRACE, spec)
        return self._answer(result, kind, trace.model, (trace, spec), job)

    def report(self, model: str, spec: Spec, job: Job | None = None) -> Any:
        """What is asked of a model as such: any spec of ``requests.ON_MODEL``."""
        kind, result = asked(ON_MODEL, spec)
        return self._answer(result, kind, model, (spec,), job)

    def study(self, spec: Any, job: Job | None = None) -> Any:
        """A suite, or a report on sums: any spec of ``requests.STUDIES``.

        It goes behind everyone's clicks, and has an hour of its own.
        """
        kind, result = asked(STUDIES, spec)
        job = job or Job()
        job.priority = Priority.LONG
        job.deadline_s = job.deadline_s or SUITE_DEADLINE_S
        return self._answer(result, kind, spec.model, (spec,), job)

    def keep(self, content: str) -> str:
        """Keep a text that a person uploaded, and give its name: the hash of what it says."""
        name = hashlib.sha256(content.encode()).hexdigest()
        self._memo.put(f"upload-{name}", content.encode())
        return name

    def kept(self, name: str) -> str | None:
        """A text of ``keep``; None if it has been let go, or never was."""
        data = self._memo.get(f"upload-{name}")
        return None if data is None else data.decode()

    def model_info(self, name: str, job: Job | None = None) -> ModelInfo:
        """What a model is; loads it unless that is known already."""
        return self._answer(ModelInfo, "info", name, (), job)

    def peek(self, spec: Any, option: Spec | None = None) -> Any:
        """The same look-ups in the memo only: the result, or None. Never computes, never waits.

        Args:
            spec: What ``run`` or ``study`` takes; or what ``derive`` or ``report`` takes first.
            option: What they take second; with a model's name alone, ``model_info`` is meant.
        """
        if isinstance(spec, RunSpec):
            return self._find(RunResult, self._key(spec.model, (spec,)))
        if type(spec) in STUDIES:
            return self._find(STUDIES[type(spec)].result, self._key(spec.model, (spec,)))
        if isinstance(spec, TraceSpec):
            kind = asked(ON_TRACE, option).result
            return self._find(kind, self._key(spec.model, (spec, cast(Spec, option))))
        if option is None:
            return self._find(ModelInfo, self._key(spec, ()))
        return self._find(asked(ON_MODEL, option).result, self._key(spec, (option,)))

    def status(self) -> ServiceStatus:
        """How the service does."""
        return ServiceStatus(
            self._memo.status(),
            self._backend.queued,
            self._backend.pid,
            self._forwards,
            self._computed,
            self._backend.workers,
            self._backend.resident,
        )

    @property
    def problem(self) -> str:
        """What a person should know about the service (a memo that can't be used), or empty."""
        return self._memo.problem

    def _answer(
        self,
        result: type[Result],
        kind: str,
        model: str,
        specs: tuple[Spec, ...],
        job: Job | None,
    ) -> Result:
        for spec in specs:
            check(spec, self.settings)
        key = self._key(model, specs)
        found = self._find(result, key)
        if found is not None:
            return found
        job = job or Job()
        deadline = self.settings.deadline_s if job.deadline_s is None else job.deadline_s
        request = Request(kind, model, self._identify(model), specs)
        answer = codec.decode(self._backend.ask(key, request, job, deadline).data)
        if not isinstance(answer, result):
            raise AnalysisError("The worker gave an answer to another question.", "Run it again.")
        return answer

    def _identify(self, model: str) -> str:
        return self._fingerprint(model, self.settings.dtype)

    def _key(self, model: str, specs: tuple[Spec, ...]) -> str:
        identity = self._identify(model)
        return cache_key(identity + shelf.key_part(identity, specs), *specs)

    def _find(self, kind: type[Result], key: str) -> Result | None:
        data = self._memo.get(key)
        if data is None:
            data = self._backend.find(key)
            if data is None:
                return None
            self._memo.put(key, data)
        try:
            found = codec.decode(data)
        except StoreError:
            _log.warning("a memoised result could not be read and is computed anew")
            found = None
        if isinstance(found, kind):
            return found
        self._memo.remove(key)
        return None

    def _keep(self, key: str, request: Request, answer: Answer) -> None:
        self._forwards += answer.forwards
        self._computed += 1
        if answer.fingerprint == request.fingerprint:  # else the model changed under our feet
            self._memo.put(key, answer.data)
