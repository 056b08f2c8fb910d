"""The questions by their names: what each kind of spec is asked by, and answered with.

All of them are ``derive``, ``report`` and ``study`` with the answer's type said.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, cast

from analysis.job import Job
from analysis.link_specs import CausalSpec, ComparisonSpec, LinkSpec, NeuronSpec
from analysis.results import (
    CausalCheck,
    CausalComparison,
    Emergence,
    Graph,
    Grid,
    Ledger,
    LinkReading,
    Neurons,
    PatternResult,
    Story,
    SuiteReport,
)
from analysis.specs import (
    EmergenceSpec,
    FlowSpec,
    LedgerSpec,
    LensSpec,
    PatternSpec,
    Spec,
    StorySpec,
    TraceSpec,
)
from analysis.tasks.spec import SuiteSpec


class Questions(ABC):
    """What can be asked of a service, each by a name of its own."""

    @abstractmethod
    def derive(self, trace: TraceSpec, spec: Spec, job: Job | None = None) -> Any:
        """What is asked of one forward pass."""

    @abstractmethod
    def report(self, model: str, spec: Spec, job: Job | None = None) -> Any:
        """What is asked of a model as such."""

    @abstractmethod
    def study(self, spec: Any, job: Job | None = None) -> Any:
        """What is asked of a model over many prompts."""

    def grid(self, trace: TraceSpec, spec: LensSpec, job: Job | None = None) -> Grid:
        """Read hidden states as tokens."""
        return cast(Grid, self.derive(trace, spec, job))

    def pattern(self, trace: TraceSpec, spec: PatternSpec, job: Job | None = None) -> PatternResult:
        """The attention patterns of one layer."""
        return cast(PatternResult, self.derive(trace, spec, job))

    def flow(self, trace: TraceSpec, spec: FlowSpec, job: Job | None = None) -> Graph:
        """The flow graph into one state."""
        return cast(Graph, self.derive(trace, spec, job))

    def causal(self, trace: TraceSpec, spec: CausalSpec, job: Job | None = None) -> CausalCheck:
        """What cutting each drawn link of a flow graph does to a logit."""
        return cast(CausalCheck, self.derive(trace, spec, job))

    def comparison(
        self, trace: TraceSpec, spec: ComparisonSpec, job: Job | None = None
    ) -> CausalComparison:
        """Which of several flow methods tells the truth on this prompt."""
        return cast(CausalComparison, self.derive(trace, spec, job))

    def link(self, trace: TraceSpec, spec: LinkSpec, job: Job | None = None) -> LinkReading:
        """What a link of a flow graph writes."""
        return cast(LinkReading, self.derive(trace, spec, job))

    def neurons(self, trace: TraceSpec, spec: NeuronSpec, job: Job | None = None) -> Neurons:
        """The neurons of an MLP most responsible at a position."""
        return cast(Neurons, self.derive(trace, spec, job))

    def emergence(self, trace: TraceSpec, spec: EmergenceSpec, job: Job | None = None) -> Emergence:
        """When each position's final token emerges."""
        return cast(Emergence, self.derive(trace, spec, job))

    def story(self, trace: TraceSpec, spec: StorySpec, job: Job | None = None) -> Story:
        """The facts behind the page's sentence."""
        return cast(Story, self.derive(trace, spec, job))

    def run_ledger(self, trace: TraceSpec, spec: LedgerSpec, job: Job | None = None) -> Ledger:
        """Which identities hold on this run, and how closely."""
        return cast(Ledger, self.derive(trace, spec, job))

    def suite(self, spec: SuiteSpec, job: Job | None = None) -> SuiteReport:
        """Run a task suite."""
        return cast(SuiteReport, self.study(spec, job))

    def ledger(self, name: str, job: Job | None = None) -> Ledger:
        """Which identities hold on a model, measured on two short probes."""
        return cast(Ledger, self.report(name, LedgerSpec(), job))
