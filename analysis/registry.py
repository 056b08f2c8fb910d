"""Every technique, declared once: its spec, its result, its computation and its subject.

Importable without torch. The service looks up results by it, and the worker finds the computation
by its dotted name. To add a technique, add one row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from analysis.attribution.specs import Attribution, AttributionSpec
from analysis.contract.ledger import Ledger, LedgerSpec, ModelLedgerSpec
from analysis.contract.specs import InfoSpec, ModelInfo, Spec
from analysis.errors import SpecError
from analysis.experiments.component_specs import ComponentGraph, ComponentGraphSpec
from analysis.experiments.specs import PromptComparison, PromptSpec, Sweep, SweepSpec
from analysis.flow_graph.results import CausalCheck, CausalComparison, Graph, LinkReading, Neurons
from analysis.flow_graph.specs import CausalSpec, ComparisonSpec, FlowSpec, LinkSpec, NeuronSpec
from analysis.inside_block.specs import (
    AggregationReport,
    AggregationSpec,
    BlockSpec,
    Experts,
    ExpertSpec,
    OpenedBlock,
    ScoreParts,
    ScoreSpec,
)
from analysis.lens.results import Colours, Disagreement, Grid, Promoted
from analysis.lens.specs import ColourSpec, DisagreementSpec, LensSpec, PromotedSpec
from analysis.reports.specs import (
    EmbeddingReport,
    EmbeddingSpec,
    NormReport,
    NormSpec,
    SimilarityReport,
    SimilaritySpec,
)
from analysis.tasks.neuron_text_specs import NeuronTexts, NeuronTextSpec
from analysis.tasks.suite_effects import SuiteEffects, SuiteEffectSpec
from analysis.tasks.suite_specs import FailureReport, FailureSpec, SuiteReport, SuiteSpec
from analysis.tasks.sum_specs import (
    CarryCircuits,
    CarryCircuitSpec,
    ContributionReport,
    ContributionSpec,
    PatchReport,
    PatchSpec,
    ProbeReport,
    ProbeSpec,
    Projection,
    ProjectionSpec,
)
from analysis.tracing.specs import (
    Answer,
    AnswerSpec,
    PatternResult,
    PatternSpec,
    RunResult,
    RunSpec,
)
from analysis.trajectory.specs import (
    Emergence,
    EmergenceSpec,
    LargestSteps,
    LargestStepSpec,
    Steps,
    StepsSpec,
    Story,
    StorySpec,
)
from analysis.weights.specs import (
    Circuits,
    CircuitSpec,
    StateCircuits,
    StateCircuitSpec,
    WeightReport,
    WeightSpec,
)

#: What a technique is applied to, and so the arguments of its computation:
#: "prompt": (model, spec) -> (result, trace); "trace": (model, trace, spec) -> result;
#: "model": (model, spec) -> result; "study" (many prompts, long work): (model, spec, memo of
#: finished prompts, maximum number of tokens in a prompt) -> result.
Subject = Literal["prompt", "trace", "model", "study"]


@dataclass(frozen=True, slots=True)
class Technique:
    """One technique.

    Attributes:
        name: Its name in metrics, logs and messages between processes.
        subject: What it is applied to.
        spec: The type of its input.
        result: The type of its answer.
        compute: Dotted name of its computation, ``module:function``.
    """

    name: str
    subject: Subject
    spec: type[Spec[Any]]
    result: type[Any]
    compute: str

    def load(self) -> Callable[..., Any]:
        """Import the computation; call this in the model worker only, as it imports torch."""
        module, _, function = self.compute.partition(":")
        found: Callable[..., Any] = getattr(import_module(module), function)
        return found


_ROWS: tuple[tuple[str, Subject, type[Spec[Any]], type[Any], str], ...] = (
    ("run", "prompt", RunSpec, RunResult, "tracing.generation:run"),
    ("decode", "trace", LensSpec, Grid, "lens.grid:compute"),
    ("pattern", "trace", PatternSpec, PatternResult, "tracing.heads:attention_pattern"),
    ("answer", "trace", AnswerSpec, Answer, "tracing.generation:answer"),
    ("flow", "trace", FlowSpec, Graph, "flow_graph.graph:compute"),
    ("attribute", "trace", AttributionSpec, Attribution, "attribution.direct:compute"),
    ("emergence", "trace", EmergenceSpec, Emergence, "trajectory.emergence:compute"),
    ("story", "trace", StorySpec, Story, "trajectory.steps:compute_story"),
    ("run_ledger", "trace", LedgerSpec, Ledger, "ledger:check_run"),
    ("causal", "trace", CausalSpec, CausalCheck, "flow_graph.causal_check:compute"),
    ("comparison", "trace", ComparisonSpec, CausalComparison, "flow_graph.causal_check:compare"),
    ("link", "trace", LinkSpec, LinkReading, "flow_graph.link_reading:compute"),
    ("neurons", "trace", NeuronSpec, Neurons, "flow_graph.link_reading:compute_neurons"),
    ("colours", "trace", ColourSpec, Colours, "lens.colours:compute"),
    ("promoted", "trace", PromotedSpec, Promoted, "lens.promoted:compute"),
    ("disagreement", "trace", DisagreementSpec, Disagreement, "lens.disagreement:compute"),
    ("steps", "trace", StepsSpec, Steps, "trajectory.steps:compute"),
    (
        "largest_steps",
        "trace",
        LargestStepSpec,
        LargestSteps,
        "trajectory.steps:compute_all_positions",
    ),
    ("block", "trace", BlockSpec, OpenedBlock, "inside_block.block:compute"),
    ("experts", "trace", ExpertSpec, Experts, "inside_block.experts:compute"),
    ("score_parts", "trace", ScoreSpec, ScoreParts, "inside_block.scores:compute"),
    (
        "state_circuits",
        "trace",
        StateCircuitSpec,
        StateCircuits,
        "weights.circuits:compute_of_states",
    ),
    (
        "aggregation",
        "trace",
        AggregationSpec,
        AggregationReport,
        "inside_block.aggregation:compute",
    ),
    ("similarity", "trace", SimilaritySpec, SimilarityReport, "reports.similarity:compute"),
    ("info", "model", InfoSpec, ModelInfo, "model.handle:info"),
    ("ledger", "model", ModelLedgerSpec, Ledger, "ledger:check_model"),
    ("embedding_report", "model", EmbeddingSpec, EmbeddingReport, "reports.embeddings:compute"),
    ("norm_report", "model", NormSpec, NormReport, "reports.norm_report:compute"),
    ("circuits", "model", CircuitSpec, Circuits, "weights.circuits:compute"),
    ("weights", "model", WeightSpec, WeightReport, "weights.report:compute"),
    ("suite", "study", SuiteSpec, SuiteReport, "tasks.suite_report:compute"),
    ("suite_effects", "study", SuiteEffectSpec, SuiteEffects, "tasks.suite_effects:compute"),
    ("contributions", "study", ContributionSpec, ContributionReport, "tasks.sum_table:compute"),
    ("probes", "study", ProbeSpec, ProbeReport, "tasks.probes:compute"),
    ("projection", "study", ProjectionSpec, Projection, "tasks.probes:compute_projection"),
    ("carry_circuits", "study", CarryCircuitSpec, CarryCircuits, "tasks.carry_circuits:compute"),
    ("neuron_texts", "study", NeuronTextSpec, NeuronTexts, "tasks.neuron_texts:compute"),
    ("patching", "study", PatchSpec, PatchReport, "tasks.carry_patching:compute"),
    ("sweep", "study", SweepSpec, Sweep, "experiments.sweep:compute"),
    (
        "component_graph",
        "study",
        ComponentGraphSpec,
        ComponentGraph,
        "experiments.component_graph:compute",
    ),
    ("compare_prompts", "study", PromptSpec, PromptComparison, "experiments.comparison:compute"),
    ("failure", "study", FailureSpec, FailureReport, "tasks.failure_report:compute"),
)

TECHNIQUES: tuple[Technique, ...] = tuple(
    Technique(name, subject, spec, result, f"analysis.{compute}")
    for name, subject, spec, result, compute in _ROWS
)


def technique_for(spec: Spec[Any]) -> Technique:
    """The technique that answers a spec.

    Raises:
        SpecError: If none does.
    """
    found = next((row for row in TECHNIQUES if row.spec is type(spec)), None)
    if found is None:
        raise SpecError("There is no technique for this request.", "Reload the page.")
    return found


def named(name: str) -> Technique:
    """The technique of a name.

    Raises:
        SpecError: If there is none.
    """
    found = next((row for row in TECHNIQUES if row.name == name), None)
    if found is None:
        raise SpecError(f"There is no technique named {name!r}.", "Reload the page.")
    return found
