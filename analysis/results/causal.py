"""What cutting the links of a flow graph does to a logit."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.results.base import Floats, Ints, check_shape


@dataclass(frozen=True, slots=True)
class CausalCheck:
    """Drawn links of one graph against the measured effect of cutting each.

    Attributes:
        method: Of the graph.
        position, token, foil: Whose logit was measured; foil -1 for a plain logit.
        logit: It, or its difference from the foil's, with nothing cut.
        kind: [link] index into LINK_KINDS (attention or mlp).
        layer: [link]. head: [link] -1 for all heads together.
        source_pos, target_pos: [link].
        share: [link] of what enters the link's target (signed: logits).
        flow: [link] as drawn: part of the root's mass (signed: logits).
        effect: [link] logit with nothing cut minus logit with the link cut: what it adds.
        correlation: Spearman's, of drawn flow and absolute effect (signed: of both with their
            signs); NaN where fewer than three links were cut.
        without_cut: Drawn links that nothing cuts: residual, biases, sinks, what was folded, and
            position 0, which has only itself to attend to.
        unmeasured: Drawn links beyond the limit.
        passes: Forward passes it took, of several edits each.
    """

    method: str
    position: int
    token: int
    foil: int
    logit: float
    kind: Ints
    layer: Ints
    head: Ints
    source_pos: Ints
    target_pos: Ints
    share: Floats
    flow: Floats
    effect: Floats
    correlation: float
    without_cut: int
    unmeasured: int
    passes: int

    def __post_init__(self) -> None:
        for name in ("layer", "head", "source_pos", "target_pos", "share", "flow", "effect"):
            check_shape(name, getattr(self, name), self.kind.shape)


@dataclass(frozen=True, slots=True)
class CausalComparison:
    """Several methods against the same measured effects.

    Attributes:
        methods: [method] their names.
        correlations: [method] Spearman's, of drawn flow and absolute effect over all cuts.
        kind, layer, source_pos, target_pos: [cut] what was cut, heads together.
        flow: [method, cut] what each draws there; 0 where it draws nothing.
        effect: [cut] logits.
        position, token, foil, logit: Whose logit.
    """

    methods: tuple[str, ...]
    correlations: Floats
    kind: Ints
    layer: Ints
    source_pos: Ints
    target_pos: Ints
    flow: Floats
    effect: Floats
    position: int
    token: int
    foil: int
    logit: float

    def __post_init__(self) -> None:
        for name in ("layer", "source_pos", "target_pos", "effect"):
            check_shape(name, getattr(self, name), self.kind.shape)
        check_shape("correlations", self.correlations, (len(self.methods),))
        check_shape("flow", self.flow, (len(self.methods), *self.kind.shape))
