"""What can be asked, and what it is answered by: spec type -> kind of request, result type.

Needs no torch: the service looks answers up by it, and the worker knows each kind by name.
Adding a technique to the service is one line here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from analysis.errors import SpecError
from analysis.lens_specs import (
    ColourSpec,
    DisagreementSpec,
    EmbeddingSpec,
    LargestStepSpec,
    NormSpec,
    PromotedSpec,
    SimilaritySpec,
    StepsSpec,
)
from analysis.link_specs import CausalSpec, ComparisonSpec, LinkSpec, NeuronSpec
from analysis.results import (
    CausalCheck,
    CausalComparison,
    Colours,
    ContributionReport,
    Disagreement,
    EmbeddingReport,
    Emergence,
    FailureReport,
    Graph,
    Grid,
    LargestSteps,
    Ledger,
    LinkReading,
    Neurons,
    NormReport,
    PatchReport,
    PatternResult,
    ProbeReport,
    Projection,
    Promoted,
    SimilarityReport,
    Steps,
    Story,
    SuiteReport,
)
from analysis.specs import (
    EmergenceSpec,
    FlowSpec,
    LedgerSpec,
    LensSpec,
    PatternSpec,
    StorySpec,
)
from analysis.tasks.spec import (
    ContributionSpec,
    FailureSpec,
    PatchSpec,
    ProbeSpec,
    ProjectionSpec,
    SuiteSpec,
)


class Asked(NamedTuple):
    """How a spec is answered.

    Attributes:
        kind: Of the request; names a computation of ``analysis.worker.perform``.
        result: The type of the answer.
    """

    kind: str
    result: type[Any]


#: Asked of one forward pass.
ON_TRACE: dict[type[Any], Asked] = {
    LensSpec: Asked("grid", Grid),
    PatternSpec: Asked("pattern", PatternResult),
    FlowSpec: Asked("flow", Graph),
    EmergenceSpec: Asked("emergence", Emergence),
    StorySpec: Asked("story", Story),
    LedgerSpec: Asked("run_ledger", Ledger),
    CausalSpec: Asked("causal", CausalCheck),
    ComparisonSpec: Asked("comparison", CausalComparison),
    LinkSpec: Asked("link", LinkReading),
    NeuronSpec: Asked("neurons", Neurons),
    ColourSpec: Asked("colours", Colours),
    PromotedSpec: Asked("promoted", Promoted),
    DisagreementSpec: Asked("disagreement", Disagreement),
    StepsSpec: Asked("steps", Steps),
    LargestStepSpec: Asked("largest_steps", LargestSteps),
    SimilaritySpec: Asked("similarity", SimilarityReport),
}

#: Asked of a model as such.
ON_MODEL: dict[type[Any], Asked] = {
    LedgerSpec: Asked("ledger", Ledger),
    EmbeddingSpec: Asked("embedding_report", EmbeddingReport),
    NormSpec: Asked("norm_report", NormReport),
}

#: Asked of a model over many prompts: long work, behind everyone's clicks.
STUDIES: dict[type[Any], Asked] = {
    SuiteSpec: Asked("suite", SuiteReport),
    ContributionSpec: Asked("contributions", ContributionReport),
    ProbeSpec: Asked("probes", ProbeReport),
    ProjectionSpec: Asked("projection", Projection),
    PatchSpec: Asked("patching", PatchReport),
    FailureSpec: Asked("failure", FailureReport),
}


def asked(table: dict[type[Any], Asked], spec: Any) -> Asked:
    """How ``spec`` is answered.

    Raises:
        SpecError: If it is not in the table.
    """
    found = table.get(type(spec))
    if found is None:
        raise SpecError("That is not a kind of request.", "Reload the page.")
    return found
