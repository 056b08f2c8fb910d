"""The facade that the app calls: memo, then queue, then compute, then memo.

Importable without torch. Each call blocks its thread until it has the answer. It raises only
``AnalysisError`` and its subclasses.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, TypeVar, cast

from analysis import codec, paths
from analysis.contract.jobs import Job, Priority, current_user
from analysis.contract.specs import InfoSpec, Spec, cache_key
from analysis.errors import (
    AnalysisError,
    PromptError,
    SpecError,
    StoreError,
)
from analysis.experiments.specs import about_second
from analysis.learned import library
from analysis.registry import Technique, technique_for
from analysis.store.memo import Memo
from analysis.tasks.suite_specs import SuiteSpec
from analysis.tracing.specs import RunSpec, TraceSpec
from analysis.worker.backend import Backend, Keep, Local, Observed, OnEnd, Recent
from analysis.worker.messages import Answer as Computed
from analysis.worker.messages import Limits, Request, ServiceSettings, ServiceStatus
from analysis.worker.supervisor import Supervisor

#: A prompt with more characters for each allowed token is refused at once. Otherwise the model's
#: own tokenizer counts its tokens.
_CHARACTERS_PER_TOKEN = 64
#: Most results that stay decoded, and the most bytes of each. A move of the selection reads 25.
_SHARED, _SHARED_BYTES = 128, 128 << 10


@lru_cache(maxsize=_SHARED)
def _shared(data: bytes) -> Any:
    """The result in bytes of the memo, decoded once for all who read it."""
    return codec.decode(data, frozen=True)


def check(spec: Spec[Any], limits: Limits) -> None:
    """Refuse a request that is too large for this server.

    Args:
        spec: Any spec. Prompts, token sequences and suites have a size limit.
        limits: The server's limits.

    Raises:
        PromptError: If its prompt is too long.
        SpecError: If it asks for too many new tokens, or a suite of too many prompts.
    """
    if isinstance(spec, RunSpec):
        _check_run(spec, limits)
    elif isinstance(spec, SuiteSpec) and spec.size > limits.max_suite_prompts:
        raise SpecError(
            f"The suite has {spec.size} prompts; this server runs at most "
            f"{limits.max_suite_prompts}.",
            "Choose fewer, or raise STRATASCOPE_MAX_SUITE_PROMPTS.",
        )
    elif isinstance(spec, TraceSpec):
        most = limits.max_prompt_tokens + limits.max_new_tokens
        if len(spec.token_ids) > most:
            raise PromptError(
                f"The sequence has {len(spec.token_ids)} tokens; this server reads at most {most}.",
                "Shorten it, or raise STRATASCOPE_MAX_PROMPT_TOKENS.",
            )


def _check_run(spec: RunSpec, limits: Limits) -> None:
    prompt, new = limits.max_prompt_tokens, limits.max_new_tokens
    if spec.new_tokens > new:
        raise SpecError(
            f"{spec.new_tokens} new tokens were requested; this server generates at most {new}.",
            "Choose fewer, or raise STRATASCOPE_MAX_NEW_TOKENS.",
        )
    if len(spec.text) > prompt * _CHARACTERS_PER_TOKEN:
        raise PromptError(
            f"The prompt has {len(spec.text)} characters, far over this server's limit "
            f"of {prompt} tokens.",
            "Shorten it, or raise STRATASCOPE_MAX_PROMPT_TOKENS.",
        )


Answer = TypeVar("Answer")
Subject = TraceSpec | str
_log = logging.getLogger("stratascope.service")

#: Studies that keep each finished prompt, so that they can be stopped and continued.
RESUMABLE = frozenset(("suite", "failure"))
#: Seconds of computing allowed to a study.
STUDY_DEADLINE_S = 3600.0


def catalog_fingerprint(name: str, dtype: str | None) -> str:
    """The fingerprint of an offered model's weights and dtype, found without loading it.

    Raises:
        UnknownModelError: If the model is not offered. A URL must not name paths or hub ids.
    """
    from analysis.model import catalog
    from analysis.model.catalog import fingerprint

    return fingerprint(catalog.offered(name), dtype)


class Service:
    """Answers specs from the memo, or has a model worker compute them.

    Args:
        settings: Limits and folders.
        fingerprint: Gives the fingerprint of a model's weights from its name and dtype.
        backend: Makes what computes, instead of the one that the settings choose.
    """

    def __init__(
        self,
        settings: ServiceSettings | None = None,
        fingerprint: Callable[[str, str | None], str] = catalog_fingerprint,
        backend: Callable[[Keep, Recent], Backend] | None = None,
    ) -> None:
        self.settings = settings or ServiceSettings()
        self.limits = self.settings.limits
        self._fingerprint = fingerprint
        folder = (self.settings.cache_dir or paths.cache_dir()) / "memo"
        self._memo = Memo(
            folder if self.settings.memo else None,
            self.limits.memo_bytes,
            self.limits.recent_bytes,
        )
        self._forwards = self._computed = 0
        self._asking: list[tuple[str, str]] = []  # key and user of each request under way
        made = backend or partial(backend_of, self.settings)
        self._backend = Observed(made(self._keep, self._memo.recent))

    def start(self) -> None:
        """Start the model worker now, so that the first request does not wait for its imports."""
        self._backend.start()

    def observe(self, on_end: OnEnd) -> None:
        """Call ``on_end`` for every computation that ends."""
        self._backend.on_end = on_end

    def warm(self, model: str) -> None:
        """Load a model, even if the memo has its description.

        Remote workers load their own models.
        """
        if self.settings.redis_url:
            return
        request = Request("info", model, self._identify(model), (InfoSpec(),))
        self._backend.ask(self._key(model, request.specs), request, Job(), self.limits.deadline_s)

    def ready(self, model: str) -> bool:
        """Whether a request to a model would start at once."""
        return self._backend.ready(model)

    def close(self) -> None:
        """Stop the worker and finish writing. Waiting calls raise CancelledError."""
        self._backend.close()
        self._memo.close()

    def __enter__(self) -> Service:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, subject: Subject, spec: Spec[Answer], job: Job | None = None) -> Answer:
        """Answer a spec: from the memo, or by the model worker.

        Studies wait behind all clicks and may compute for an hour.

        Args:
            subject: A ``TraceSpec`` (one forward pass) or a model's name: see the registry.
            spec: Any spec of ``analysis.registry``.
            job: The user's job, which receives progress; a new one unless given.

        Raises:
            SpecError: If no technique answers the spec, the spec does not fit the subject, it
                names something that does not exist, or it is over a limit.
            PromptError: If the prompt is empty or over the limit (tokens are counted first).
        """
        technique, specs = _checked(subject, spec)
        for part in specs:
            check(part, self.limits)
        model = _model_of(subject)
        key = self._key(model, specs)
        found = self._find(technique.result, key)
        if found is None:
            found = self._compute(technique, key, model, specs, job or Job())
        return cast(Answer, found)

    def peek(self, subject: Subject, spec: Spec[Answer]) -> Answer | None:
        """The memo's answer to a spec, or None. Never computes, never waits."""
        technique, specs = _checked(subject, spec)
        return cast(
            "Answer | None", self._find(technique.result, self._key(_model_of(subject), specs))
        )

    def version(self, model: str) -> str:
        """Names a model's weights and its learned lens: while it stays, so do results on it."""
        identity = self._identify(model)
        lens = library.of_fingerprint(identity)
        return f"{identity}-{lens.digest if lens else 'none'}"

    def keep(self, content: str) -> str:
        """Store an uploaded text of the current user. Returns its name, the hash of its content."""
        name = hashlib.sha256(content.encode()).hexdigest()
        self._memo.put(f"upload-{name}", content.encode(), current_user.get())
        return name

    def kept(self, name: str) -> str | None:
        """The text that ``keep`` stored; None if it is not there any more."""
        data = self._memo.get(f"upload-{name}")
        return None if data is None else data.decode()

    def status(self) -> ServiceStatus:
        """The state of the service."""
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
        """What the user should know, such as an unusable memo; empty if all is well."""
        return self._memo.problem

    def _compute(
        self, technique: Technique, key: str, model: str, specs: tuple[Spec[Any], ...], job: Job
    ) -> Any:
        if technique.subject == "study":
            job.priority = Priority.LONG
            job.deadline_s = job.deadline_s or STUDY_DEADLINE_S
        deadline = self.limits.deadline_s if job.deadline_s is None else job.deadline_s
        resumable = technique.name in RESUMABLE
        identities = self._identify(model), self._identify_second(specs)
        request = Request(technique.name, model, identities[0], specs, resumable, identities[1])
        asking = (key, job.user)
        self._asking.append(asking)
        try:
            answer = codec.decode(self._backend.ask(key, request, job, deadline).data)
        finally:
            self._asking.remove(asking)
        if not isinstance(answer, technique.result):
            raise AnalysisError("The worker answered a different request.", "Run the prompt again.")
        return answer

    def _identify(self, model: str) -> str:
        return self._fingerprint(model, self.limits.dtype)

    def _identify_second(self, specs: tuple[Spec[Any], ...]) -> str:
        """The fingerprint of the second model that a spec names; empty if it names none."""
        name = getattr(specs[-1], "other", "")
        try:
            return self._identify(name) if name else ""
        except AnalysisError as error:
            raise about_second(error) from error

    def _key(self, model: str, specs: tuple[Spec[Any], ...]) -> str:
        identity = self._identify(model)
        parts = (identity, library.key_part(identity, specs), self._identify_second(specs))
        return cache_key("".join(parts), *specs)

    def _find(self, kind: type[Any], key: str) -> Any:
        data = self._memo.get(key)
        if data is None:
            data = self._backend.find(key)
            if data is None:
                return None
            self._memo.put(key, data, current_user.get())
        try:
            found = _shared(data) if len(data) <= _SHARED_BYTES else codec.decode(data)
        except StoreError:
            _log.warning("a memoised result could not be read; it is computed again")
            found = None
        if isinstance(found, kind):
            return found
        self._memo.remove(key)
        return None

    def _keep(self, key: str, request: Request, answer: Computed) -> None:
        self._forwards += answer.forwards
        self._computed += 1
        # The model's files may have changed since the request: then the answer is not stored.
        if answer.fingerprint == request.fingerprint:
            users = [user for asked, user in list(self._asking) if asked == key]
            self._memo.put(key, answer.data, users[0] if users else "")


def _model_of(subject: Subject) -> str:
    return subject if isinstance(subject, str) else subject.model


def _checked(subject: Subject, spec: Spec[Any]) -> tuple[Technique, tuple[Spec[Any], ...]]:
    """The technique of a spec, and the specs that its memo key is made of.

    Raises:
        SpecError: If the spec does not apply to the subject, or names another model.
    """
    technique = technique_for(spec)
    of_trace = isinstance(subject, TraceSpec)
    if of_trace != (technique.subject == "trace"):
        wanted = "a forward pass" if technique.subject == "trace" else "a model"
        raise SpecError(f"{type(spec).__name__} needs {wanted}.", "Reload the page.")
    if getattr(spec, "model", _model_of(subject)) != _model_of(subject):
        raise SpecError(f"{type(spec).__name__} names another model.", "Reload the page.")
    return technique, ((subject, spec) if isinstance(subject, TraceSpec) else (spec,))


def backend_of(settings: ServiceSettings, keep: Keep, recent: Recent) -> Backend:
    """The backend that the settings choose; Celery and redis are imported only if needed."""
    if settings.redis_url:
        from analysis.scale.app import ScaleSettings
        from analysis.scale.client import Remote

        scale = ScaleSettings(settings.redis_url, settings.redis_prefix)
        return Remote(scale, keep, max_queue=settings.limits.max_queue)
    grace = settings.cancel_grace_s
    limits = settings.worker_limits()
    return Local(Supervisor(settings.function, limits, keep, recent, cancel_grace_s=grace))
