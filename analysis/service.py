"""The one facade the app calls: memo, then queue, then compute, then memo.

Importable without torch. All calls block their thread until the answer is
there and raise nothing but ``AnalysisError`` and its subclasses.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, overload

from analysis import codec, paths
from analysis.errors import AnalysisError, PromptError, SpecError, StoreError
from analysis.job import Job, Priority, Progress
from analysis.link_specs import CausalSpec, ComparisonSpec, LinkSpec, NeuronSpec
from analysis.results import (
    CausalCheck,
    CausalComparison,
    Emergence,
    Graph,
    Grid,
    Ledger,
    LinkReading,
    ModelInfo,
    Neurons,
    PatternResult,
    RunResult,
    Story,
    SuiteReport,
)
from analysis.specs import (
    EmergenceSpec,
    FlowSpec,
    LedgerSpec,
    LensSpec,
    PatternSpec,
    RunSpec,
    Spec,
    StorySpec,
    TraceSpec,
    cache_key,
)
from analysis.store import Memo, MemoStatus
from analysis.tasks.spec import SuiteSpec
from analysis.worker.keeper import Keeper
from analysis.worker.messages import Answer, Limits, Request
from analysis.worker.waiting import ask

__all__ = ["Job", "Priority", "Progress", "Service", "ServiceSettings", "ServiceStatus"]

Result = TypeVar("Result")
_log = logging.getLogger("stratascope.service")

#: Seconds of computing allowed to a suite.
SUITE_DEADLINE_S = 3600.0
#: Longest text that is looked at; tokens are counted exactly by the model's own tokenizer.
_CHARACTERS_PER_TOKEN = 64


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """Where things lie and what they may cost.

    Attributes:
        cache_dir: Folder of the memo; None: the user's cache folder.
        memo: Whether results are kept on disk at all.
        memo_bytes: Bytes of results kept on disk.
        recent_bytes: Bytes of results kept in memory.
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
    """

    cache_dir: Path | None = None
    memo: bool = True
    memo_bytes: int = 2 << 30
    recent_bytes: int = 64 << 20
    max_prompt_tokens: int = 512
    max_new_tokens: int = 64
    model_bytes: int = 4 << 30
    trace_bytes: int = 512 << 20
    max_queue: int = 200
    deadline_s: float = 180.0
    cancel_grace_s: float = 30.0
    dtype: str | None = None
    device: str | None = None
    function: str = field(default="analysis.worker.perform:perform")

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
    """

    memo: MemoStatus
    queued: int
    worker_pid: int | None
    forwards: int
    computed: int


def catalog_fingerprint(name: str, dtype: str | None) -> str:
    """What identifies the weights and dtype of a model on offer, found without loading them.

    Raises:
        UnknownModelError: If it is not on offer: a URL must not name paths or hub ids.
    """
    from analysis.models import catalog

    return catalog.fingerprint(catalog.offered(name), dtype)


class Service:
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
        self._keeper = Keeper(
            self.settings.function,
            self.settings.limits(),
            self._keep,
            max_queue=self.settings.max_queue,
            cancel_grace_s=self.settings.cancel_grace_s,
        )

    def start(self) -> None:
        """Start the model worker now, so that the first request need not wait for its imports."""
        self._keeper.start()

    def close(self) -> None:
        """Stop the worker and finish writing; whoever still waits gets CancelledError."""
        self._keeper.close()
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

    def grid(self, trace: TraceSpec, spec: LensSpec, job: Job | None = None) -> Grid:
        """Read hidden states as tokens."""
        return self._answer(Grid, "grid", trace.model, (trace, spec), job)

    def pattern(self, trace: TraceSpec, spec: PatternSpec, job: Job | None = None) -> PatternResult:
        """The attention patterns of one layer."""
        return self._answer(PatternResult, "pattern", trace.model, (trace, spec), job)

    def flow(self, trace: TraceSpec, spec: FlowSpec, job: Job | None = None) -> Graph:
        """The flow graph into one state."""
        return self._answer(Graph, "flow", trace.model, (trace, spec), job)

    def causal(self, trace: TraceSpec, spec: CausalSpec, job: Job | None = None) -> CausalCheck:
        """What cutting each drawn link of a flow graph does to a logit."""
        return self._answer(CausalCheck, "causal", trace.model, (trace, spec), job)

    def comparison(
        self, trace: TraceSpec, spec: ComparisonSpec, job: Job | None = None
    ) -> CausalComparison:
        """Which of several flow methods tells the truth on this prompt."""
        return self._answer(CausalComparison, "comparison", trace.model, (trace, spec), job)

    def link(self, trace: TraceSpec, spec: LinkSpec, job: Job | None = None) -> LinkReading:
        """What a link of a flow graph writes."""
        return self._answer(LinkReading, "link", trace.model, (trace, spec), job)

    def neurons(self, trace: TraceSpec, spec: NeuronSpec, job: Job | None = None) -> Neurons:
        """The neurons of an MLP most responsible at a position."""
        return self._answer(Neurons, "neurons", trace.model, (trace, spec), job)

    def emergence(self, trace: TraceSpec, spec: EmergenceSpec, job: Job | None = None) -> Emergence:
        """When each position's final token emerges."""
        return self._answer(Emergence, "emergence", trace.model, (trace, spec), job)

    def story(self, trace: TraceSpec, spec: StorySpec, job: Job | None = None) -> Story:
        """The facts behind the page's sentence."""
        return self._answer(Story, "story", trace.model, (trace, spec), job)

    def run_ledger(self, trace: TraceSpec, spec: LedgerSpec, job: Job | None = None) -> Ledger:
        """Which identities hold on this run, and how closely."""
        return self._answer(Ledger, "run_ledger", trace.model, (trace, spec), job)

    def suite(self, spec: SuiteSpec, job: Job | None = None) -> SuiteReport:
        """Run a task suite: behind everyone's clicks, and with an hour of its own."""
        job = job or Job()
        job.priority = Priority.LONG
        job.deadline_s = job.deadline_s or SUITE_DEADLINE_S
        return self._answer(SuiteReport, "suite", spec.model, (spec,), job)

    def ledger(self, name: str, job: Job | None = None) -> Ledger:
        """Which identities hold on a model, measured on two short probes."""
        return self._answer(Ledger, "ledger", name, (LedgerSpec(),), job)

    def model_info(self, name: str, job: Job | None = None) -> ModelInfo:
        """What a model is; loads it unless that is known already."""
        return self._answer(ModelInfo, "info", name, (), job)

    @overload
    def peek(self, spec: RunSpec) -> RunResult | None: ...
    @overload
    def peek(self, spec: TraceSpec, option: LensSpec) -> Grid | None: ...
    @overload
    def peek(self, spec: TraceSpec, option: PatternSpec) -> PatternResult | None: ...
    @overload
    def peek(self, spec: TraceSpec, option: FlowSpec) -> Graph | None: ...
    @overload
    def peek(self, spec: TraceSpec, option: EmergenceSpec) -> Emergence | None: ...
    @overload
    def peek(self, spec: TraceSpec, option: StorySpec) -> Story | None: ...
    @overload
    def peek(self, spec: TraceSpec, option: CausalSpec) -> CausalCheck | None: ...
    @overload
    def peek(self, spec: TraceSpec, option: ComparisonSpec) -> CausalComparison | None: ...
    @overload
    def peek(self, spec: TraceSpec, option: LinkSpec) -> LinkReading | None: ...
    @overload
    def peek(self, spec: TraceSpec, option: NeuronSpec) -> Neurons | None: ...
    @overload
    def peek(self, spec: SuiteSpec) -> SuiteReport | None: ...
    @overload
    def peek(self, spec: str) -> ModelInfo | None: ...

    def peek(self, spec: RunSpec | TraceSpec | SuiteSpec | str, option: Spec | None = None) -> Any:
        """The same look-ups in the memo only: the result, or None. Never computes, never waits.

        Args:
            spec: What ``run`` takes; or what ``grid`` and the others take first; or a model's name.
            option: What they take second; tells which of them is meant.
        """
        if isinstance(spec, str):
            return self._find(ModelInfo, self._key(spec, ()))
        if isinstance(spec, RunSpec):
            return self._find(RunResult, self._key(spec.model, (spec,)))
        if isinstance(spec, SuiteSpec):
            return self._find(SuiteReport, self._key(spec.model, (spec,)))
        kind = _RESULT_OF.get(type(option))
        if kind is None or option is None:
            raise SpecError("That is not a kind of request.", "Reload the page.")
        return self._find(kind, self._key(spec.model, (spec, option)))

    def status(self) -> ServiceStatus:
        """How the service does."""
        return ServiceStatus(
            self._memo.status(),
            self._keeper.queued,
            self._keeper.pid,
            self._forwards,
            self._computed,
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
            self._check(spec)
        key = self._key(model, specs)
        found = self._find(result, key)
        if found is not None:
            return found
        job = job or Job()
        deadline = self.settings.deadline_s if job.deadline_s is None else job.deadline_s
        request = Request(kind, model, self._identify(model), specs)
        answer = codec.decode(ask(self._keeper, key, request, job, deadline).data)
        if not isinstance(answer, result):
            raise AnalysisError("The worker gave an answer to another question.", "Run it again.")
        return answer

    def _check(self, spec: Spec) -> None:
        prompt, new = self.settings.max_prompt_tokens, self.settings.max_new_tokens
        if isinstance(spec, RunSpec):
            if spec.new_tokens > new:
                raise SpecError(
                    f"{spec.new_tokens} new tokens were asked for; "
                    f"this server makes at most {new}.",
                    "Ask for fewer, or raise STRATASCOPE_MAX_NEW_TOKENS.",
                )
            if len(spec.text) > prompt * _CHARACTERS_PER_TOKEN:
                raise PromptError(
                    f"The prompt has {len(spec.text)} characters, far over this server's limit "
                    f"of {prompt} tokens.",
                    "Shorten it, or raise STRATASCOPE_MAX_PROMPT_TOKENS.",
                )
        if isinstance(spec, TraceSpec) and len(spec.token_ids) > prompt + new:
            raise PromptError(
                f"The sequence has {len(spec.token_ids)} tokens; this server reads at most "
                f"{prompt + new}.",
                "Shorten it, or raise STRATASCOPE_MAX_PROMPT_TOKENS.",
            )

    def _identify(self, model: str) -> str:
        return self._fingerprint(model, self.settings.dtype)

    def _key(self, model: str, specs: tuple[Spec, ...]) -> str:
        return cache_key(self._identify(model), *specs)

    def _find(self, kind: type[Result], key: str) -> Result | None:
        data = self._memo.get(key)
        if data is None:
            return None
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


_RESULT_OF: dict[type[Any], type[Any]] = {
    LensSpec: Grid,
    PatternSpec: PatternResult,
    FlowSpec: Graph,
    CausalSpec: CausalCheck,
    ComparisonSpec: CausalComparison,
    LinkSpec: LinkReading,
    NeuronSpec: Neurons,
    EmergenceSpec: Emergence,
    StorySpec: Story,
    LedgerSpec: Ledger,
}
