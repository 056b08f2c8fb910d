"""Specs of a flow graph, of its links, and of the causal check."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from analysis.contract.choices import Situation, about, check_choices, one_of
from analysis.contract.specs import ModelInfo, Spec
from analysis.errors import SpecError
from analysis.flow_graph.options import (
    BASELINES,
    DIRECTIONS,
    FLOW_METHODS,
    LINKS,
    NEURON_ORDERS,
    SHARES,
    START_TOKEN,
    TARGETS,
    FlowMethod,
)
from analysis.flow_graph.results import CausalCheck, CausalComparison, Graph, LinkReading, Neurons
from analysis.tracing.interventions import ABLATION_VALUES

_K = about("How many promoted and suppressed tokens.")
_FOIL = about("The id of the token whose logit is subtracted; none unless given.")


@dataclass(frozen=True, slots=True)
class FlowSpec(Spec[Graph]):
    """The flow graph of a state: where it comes from, or what it reaches."""

    position: int | tuple[int, ...] = field(
        default=-1,
        metadata=about("The root's position, or several that carry an equal part of the mass."),
    )
    row: int = field(
        default=-1, metadata=about("The root's residual row; upwards row 0 unless given.")
    )
    method: str | None = field(
        default=None,
        metadata=one_of(
            FLOW_METHODS,
            f"What the width of a link means. Unless given, {FLOW_METHODS.default}. It is {SHARES}"
            " for a model that can't run backward, for several roots or one below the last row, and"
            " for an option that needs shares (direction up, fold_sinks, hide_start).",
        ),
    )
    threshold: float = field(
        default=0.0,
        metadata=about("Keep links of a larger share (in logits: of the sum of absolute values)."),
    )
    top_k: int | None = field(
        default=None,
        metadata=about("Keep this many attention links at each node (signed: in each layer)."),
    )
    budget: int | None = field(
        default=None, metadata=about("Keep this many links in all, by flow; all unless given.")
    )
    per_head: bool = field(
        default=True,
        metadata=about("One attention link for each head and source; else heads are summed."),
    )
    token: int | None = field(
        default=None,
        metadata=about(
            "Signed and effect: the id of the token whose logit is explained; the model's own top"
            " token unless given."
        ),
    )
    foil: int | None = field(
        default=None,
        metadata=about(
            "Signed and effect: the id of the token whose logit is subtracted; none unless given."
        ),
    )
    direction: str = field(default="down", metadata=one_of(DIRECTIONS))
    fold_sinks: bool = field(
        default=False,
        metadata=about("Attention to sinks ends in one sink link at each node."),
    )
    hide_start: str = field(default="keep", metadata=one_of(START_TOKEN))
    target: str = field(default="logit", metadata=one_of(TARGETS))
    baseline: str = field(default="zero", metadata=one_of(BASELINES))
    prompts: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "Effect only: the second prompt of the baseline resample, or the prompts of the"
            " baseline reference."
        ),
    )
    exact: bool = field(
        default=False,
        metadata=about(
            "Effect only: measure instead of estimating. On a small model all links are cut; else"
            " those whose cut changes a state much, and the MLPs at the root's position."
        ),
    )

    @classmethod
    def from_options(cls, **options: Any) -> FlowSpec:
        """As for any spec; the root's row is 0 upwards and the last row downwards unless given."""
        if options.get("row") is None:
            options["row"] = 0 if options.get("direction") == "up" else -1
        return cls(**options)

    def __post_init__(self) -> None:
        check_choices(self)
        if not 0.0 <= self.threshold < 1.0:
            raise SpecError("The threshold must be at least 0 and below 1.", "Try 0.03.")
        for name, value in (("top_k", self.top_k), ("budget", self.budget)):
            if value is not None and value < 1:
                raise SpecError(f"{name} must be 1 or more.", "Leave it out to keep everything.")
        if not isinstance(self.position, int):
            object.__setattr__(self, "position", tuple(int(pos) for pos in self.position))
            if not self.position:
                raise SpecError("There is no root position.", "Name at least one.")
        object.__setattr__(self, "prompts", tuple(self.prompts))
        if self.method is not None or self.explains_logit:
            self._check_method()

    def _check_method(self) -> None:
        if self.choice.signed:
            self._check_signed()
        elif self.token is not None or self.foil is not None:
            raise SpecError(
                f"The method {self.method} does not depend on a token.",
                "Choose the method signed or effect, or leave out the token.",
            )
        if self.choice.name == "effect":
            self._check_effect()
        elif (self.target, self.baseline, self.prompts) != ("logit", "zero", ()):
            raise SpecError(
                f"The method {self.method} has no target, baseline or prompts.",
                "Choose the method effect.",
            )

    @property
    def choice(self) -> FlowMethod:
        """The row of its method; of the default, if none is given."""
        return FLOW_METHODS[self.method or FLOW_METHODS.default]

    @property
    def explains_logit(self) -> bool:
        """Whether an option is given that only methods in logits have."""
        usual = (None, None, "logit", "zero", ())
        return (self.token, self.foil, self.target, self.baseline, self.prompts) != usual

    def settled(self, info: ModelInfo) -> FlowSpec:
        """The spec with a method: its own, or the default for this graph of this model.

        Args:
            info: Facts about the model.
        """
        if self.method is not None:
            return self
        plain = (self.direction, self.fold_sinks, self.hide_start) == ("down", False, "keep")
        one = isinstance(self.position, int) and self.row in (-1, info.layers)
        default = FLOW_METHODS[FLOW_METHODS.default]
        takes = not default.unavailable(Situation(info)) and plain and one
        name = default.name if takes or self.explains_logit else SHARES
        return replace(self, method=name)

    def _check_signed(self) -> None:
        if self.direction == "up" or self.fold_sinks or self.hide_start != "keep":
            raise SpecError(
                f"The method {self.choice.name} explains one logit: it goes down, with nothing"
                " hidden.",
                "Leave direction, fold_sinks and hide_start at their defaults.",
            )
        if self.foil is not None and self.foil == self.token:
            raise SpecError("A token can't be its own foil.", "Choose another foil.")

    def _check_effect(self) -> None:
        needed = {"resample": "one second prompt", "reference": "at least one prompt"}
        count = len(self.prompts)
        fits = {"resample": count == 1, "reference": count >= 1}.get(self.baseline, count == 0)
        if not fits:
            wanted = needed.get(self.baseline, "no prompts")
            raise SpecError(f"The baseline {self.baseline} takes {wanted}.", "Change the prompts.")
        if self.target == "kl" and self.baseline != "resample":
            raise SpecError(
                "The KL of a run from itself has no gradient: it is smallest there.",
                "Choose the baseline resample with a second prompt.",
            )
        if self.target == "kl" and (self.token is not None or self.foil is not None):
            raise SpecError("The target kl has no token.", "Leave out token and foil.")


@dataclass(frozen=True, slots=True)
class CausalSpec(Spec[CausalCheck]):
    """Cut each drawn link of a flow graph and measure what that does to a logit."""

    flow: FlowSpec = field(default_factory=FlowSpec, metadata=about("The graph."))
    token: int | None = field(
        default=None,
        metadata=about(
            "The id of the token whose logit is measured; the graph's, or the model's own top"
            " token, unless given."
        ),
    )
    foil: int | None = field(default=None, metadata=_FOIL)
    value: str = field(
        default="zero", metadata=one_of(ABLATION_VALUES, "What replaces the output of a cut MLP.")
    )
    limit: int = field(
        default=100, metadata=about("Cut at most this many links, those of largest flow.")
    )

    def __post_init__(self) -> None:
        check_choices(self)
        if self.limit < 1:
            raise SpecError("At least one link must be cut.", "Try 100.")
        if not isinstance(self.flow.position, int) or self.flow.direction == "up":
            raise SpecError(
                "The causal check measures the logit of one root.",
                "Draw the graph down from one position.",
            )


@dataclass(frozen=True, slots=True)
class ComparisonSpec(Spec[CausalComparison]):
    """Which of several flow methods agrees best with causal effects on one prompt."""

    causal: CausalSpec = field(
        default_factory=CausalSpec,
        metadata=about("What is cut and measured. The method of its graph is ignored."),
    )
    methods: tuple[str, ...] = field(
        default_factory=lambda: tuple(FLOW_METHODS),
        metadata=one_of(FLOW_METHODS, "The methods to compare."),
    )
    per_head: bool = field(
        default=False,
        metadata=about(
            "Cut the links of each head on their own, and leave out methods without heads; else"
            " heads are summed."
        ),
    )

    def __post_init__(self) -> None:
        check_choices(self)
        if not self.methods:
            raise SpecError("There is no method to compare.", "Name at least one.")


@dataclass(frozen=True, slots=True)
class LinkSpec(Spec[LinkReading]):
    """What one link of a flow graph writes."""

    kind: str = field(metadata=one_of(LINKS))
    layer: int = field(metadata=about("The block of the link."))
    source_pos: int = field(metadata=about("The position that it comes from."))
    target_pos: int = field(metadata=about("The position that it goes to."))
    head: int | None = field(
        default=None, metadata=about("The attention head; all heads together unless given.")
    )
    k: int = field(default=10, metadata=_K)

    def __post_init__(self) -> None:
        check_choices(self)
        if self.k < 1:
            raise SpecError("At least one token is needed.", "Use k = 1 or more.")
        moves = self.head is not None or self.source_pos != self.target_pos
        if self.kind != "attention" and moves:
            raise SpecError(
                "Only attention has heads and comes from other positions.",
                "Leave out the head, and name the same position twice.",
            )


@dataclass(frozen=True, slots=True)
class NeuronSpec(Spec[Neurons]):
    """Which neurons of an MLP contribute most at one position."""

    layer: int = field(metadata=about("The block of the MLP."))
    position: int = field(default=-1, metadata=about("The position."))
    token: int | None = field(
        default=None,
        metadata=about(
            "The id of the token whose logit is explained; the model's own top token unless given."
        ),
    )
    foil: int | None = field(default=None, metadata=_FOIL)
    by: str = field(default="logit", metadata=one_of(NEURON_ORDERS))
    k: int = field(default=10, metadata=about("How many neurons."))
    tokens: int = field(default=5, metadata=about("How many promoted tokens of each neuron."))

    def __post_init__(self) -> None:
        check_choices(self)
        if self.k < 1 or self.tokens < 1:
            raise SpecError("At least one neuron and one token are needed.", "Use 1 or more.")
