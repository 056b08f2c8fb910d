"""Specs of a flow graph, of its links, and of the causal check."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from analysis.contract.specs import Spec, choose
from analysis.errors import SpecError
from analysis.flow_graph.results import CausalCheck, CausalComparison, Graph, LinkReading, Neurons

FlowMethod = Literal[
    "proximity", "norm", "attention", "value_weighted", "residual_norm", "kl", "hidden_kl",
    "rollout", "signed",
]  # fmt: skip
Direction = Literal["down", "up"]
HideStart = Literal["keep", "loss", "reweight"]


@dataclass(frozen=True, slots=True)
class FlowSpec(Spec[Graph]):
    """Which flow graph to draw; the options of ``analysis.flow``.

    Attributes:
        position: The root's position, or several that carry an equal part of the mass each.
        row: The root's residual row.
        method: How shares are computed.
        threshold: Links are kept whose share is above it (signed: part of the absolute mass).
        top_k: At each node, so many of its strongest attention links (signed: of each layer).
        budget: So many links in all, by flow.
        per_head: One attention link for each head and source, or heads summed.
        token, foil: Signed only: whose logit, and what it is held against; None: the model's
            own top token, and nothing.
        direction: "down" from the root to the tokens, or "up" to everything it reaches.
        fold_sinks: Whether attention to positions that soak it up ends in one sink link.
        hide_start: What becomes of attention to a start token or sink at position 0: kept,
            hidden with its mass counted as hidden, or hidden and the node's other shares scaled.
    """

    position: int | tuple[int, ...] = -1
    row: int = -1
    method: FlowMethod = "proximity"
    threshold: float = 0.0
    top_k: int | None = None
    budget: int | None = None
    per_head: bool = True
    token: int | None = None
    foil: int | None = None
    direction: Direction = "down"
    fold_sinks: bool = False
    hide_start: HideStart = "keep"

    def __post_init__(self) -> None:
        choose("The flow method", self.method, FlowMethod)
        choose("The direction", self.direction, Direction)
        choose("Hiding the start", self.hide_start, HideStart)
        if not 0.0 <= self.threshold < 1.0:
            raise SpecError("The threshold must be at least 0 and below 1.", "Try 0.03.")
        for name, value in (("top_k", self.top_k), ("budget", self.budget)):
            if value is not None and value < 1:
                raise SpecError(f"{name} must be 1 or more.", "Leave it out to keep everything.")
        if not isinstance(self.position, int):
            object.__setattr__(self, "position", tuple(int(pos) for pos in self.position))
            if not self.position:
                raise SpecError("There is no root position.", "Name at least one.")
        self._check_signed()

    def _check_signed(self) -> None:
        if self.method != "signed":
            if self.token is not None or self.foil is not None:
                raise SpecError(
                    f"The method {self.method} asks about no token.", "Use the method signed."
                )
            return
        if self.direction == "up" or self.fold_sinks or self.hide_start != "keep":
            raise SpecError(
                "Signed flow is what each part adds to one logit: it goes down, nothing hidden.",
                "Leave direction, fold_sinks and hide_start as they are.",
            )
        if self.foil is not None and self.foil == self.token:
            raise SpecError("A token can't be held against itself.", "Choose another foil.")


AblationValue = Literal["zero", "mean"]
LinkKind = Literal["attention", "residual", "mlp", "bias"]
NeuronOrder = Literal["logit", "norm"]


@dataclass(frozen=True, slots=True)
class CausalSpec(Spec[CausalCheck]):
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
class ComparisonSpec(Spec[CausalComparison]):
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
class LinkSpec(Spec[LinkReading]):
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
class NeuronSpec(Spec[Neurons]):
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
