"""What is asked of a flow graph's links: cut them, read what they write, name their neurons."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from analysis.errors import SpecError
from analysis.specs import FlowMethod, FlowSpec, choose

AblationValue = Literal["zero", "mean"]
LinkKind = Literal["attention", "residual", "mlp", "bias"]
NeuronOrder = Literal["logit", "norm"]


@dataclass(frozen=True, slots=True)
class CausalSpec:
    """Cut each drawn link of a flow graph and measure what that does to a logit.

    Attributes:
        flow: The graph.
        token, foil: Whose logit; None: the flow's, or else the model's own top token.
        value: What an MLP's output is replaced by: "zero" or "mean".
        limit: At most so many links are cut, those of largest flow.
    """

    flow: FlowSpec = field(default_factory=FlowSpec)
    token: int | None = None
    foil: int | None = None
    value: AblationValue = "zero"
    limit: int = 100

    def __post_init__(self) -> None:
        choose("The ablation", self.value, AblationValue)
        if self.limit < 1:
            raise SpecError("At least one link must be cut.", "Try 100.")
        if not isinstance(self.flow.position, int) or self.flow.direction == "up":
            raise SpecError(
                "The causal check measures one root's logit.",
                "Draw the graph down from one position.",
            )


@dataclass(frozen=True, slots=True)
class ComparisonSpec:
    """Which of several flow methods tells the truth on one prompt.

    Attributes:
        causal: What is cut and measured; its flow's method is left aside.
        methods: Their names.
    """

    causal: CausalSpec = field(default_factory=CausalSpec)
    methods: tuple[FlowMethod, ...] = get_args(FlowMethod)

    def __post_init__(self) -> None:
        for method in self.methods:
            choose("The flow method", method, FlowMethod)
        if not self.methods:
            raise SpecError("There is no method to compare.", "Name at least one.")


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """What one link of a flow graph writes.

    Attributes:
        kind: "attention", "residual", "mlp" or "bias".
        layer: The block it lies in.
        source_pos: Position it comes from.
        target_pos: Position it goes to.
        head: The attention head; None for all heads together.
        k: How many promoted and suppressed tokens.
    """

    kind: LinkKind
    layer: int
    source_pos: int
    target_pos: int
    head: int | None = None
    k: int = 10

    def __post_init__(self) -> None:
        choose("The kind of link", self.kind, LinkKind)
        if self.k < 1:
            raise SpecError("At least one token must be asked for.", "Use k = 1 or more.")
        moves = self.head is not None or self.source_pos != self.target_pos
        if self.kind != "attention" and moves:
            raise SpecError(
                "Only attention has heads and comes from other positions.",
                "Leave out the head, and name the same position twice.",
            )


@dataclass(frozen=True, slots=True)
class NeuronSpec:
    """Which neurons of an MLP are most responsible, at one position.

    Attributes:
        layer: The block.
        position: Where.
        token, foil: Whose logit; None: the model's own top token there, and nothing.
        by: "logit" ranks by what a neuron adds to that logit, "norm" by the norm it writes.
        k: How many neurons.
        tokens: How many promoted tokens of each.
    """

    layer: int
    position: int = -1
    token: int | None = None
    foil: int | None = None
    by: NeuronOrder = "logit"
    k: int = 10
    tokens: int = 5

    def __post_init__(self) -> None:
        choose("The order", self.by, NeuronOrder)
        if self.k < 1 or self.tokens < 1:
            raise SpecError("At least one neuron and token must be asked for.", "Use 1 or more.")
