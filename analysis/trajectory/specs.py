"""Specs and results on how a token emerges through the rows: emergence, steps, story."""

from __future__ import annotations

from dataclasses import dataclass, field

from analysis.attribution.specs import Attribution
from analysis.contract.choices import about
from analysis.contract.specs import Floats, Ints, Result, Spec, Token, check_shape
from analysis.errors import SpecError

#: A residual row; None for never.
MaybeRow = int | None


@dataclass(frozen=True, slots=True)
class Emergence(Result):
    """Per position, the rows at which the model's final choice emerges (None: never).

    Attributes:
        token_ids: [pos] the model's own top token at each position.
        tau: The probability that ``emergence`` needs.
        first_top1: [pos] first row where that token ranks first.
        emergence: [pos] first row from which its probability stays at least ``tau``.
        saturation: [pos] first row from which it ranks first at every later row.
        causal_commit: [pos] first row from which zeroing attention at every later layer keeps
            the choice; None as a whole if it was not requested.
        probs: [row, pos] its probability under the logit lens.
        ranks: [row, pos] its rank (0 is best).
    """

    token_ids: Ints
    tau: float
    first_top1: tuple[MaybeRow, ...]
    emergence: tuple[MaybeRow, ...]
    saturation: tuple[MaybeRow, ...]
    causal_commit: tuple[MaybeRow, ...] | None
    probs: Floats
    ranks: Ints

    def __post_init__(self) -> None:
        check_shape("probs", self.probs, (None, len(self.token_ids)))
        check_shape("ranks", self.ranks, self.probs.shape)


@dataclass(frozen=True, slots=True)
class Story(Result):
    """The facts behind the page's one sentence.

    Attributes:
        position: The position that predicts the token.
        token: The token.
        prob: Its final probability, 0 to 1.
        first_top1, emergence, saturation: Rows, None for never.
        step_layer: Layer of the component that adds most to the token's logit.
        step_head: Its head; None if it is no head.
        step_logit: How much it adds, in logits.
        step_source: Position from which the head takes the largest part of what it adds to the
            logit; None if it is no head.
        attribution: What every component adds; None if the logit has no parts.
        step_part: "head", "mlp" or another part of a block; "" if the logit has no parts.
    """

    position: int
    token: Token
    prob: float
    first_top1: MaybeRow
    emergence: MaybeRow
    saturation: MaybeRow
    step_layer: int
    step_head: int | None
    step_logit: float
    step_source: int | None
    attribution: Attribution | None
    step_part: str = "mlp"


@dataclass(frozen=True, slots=True)
class LargestStep(Result):
    """The largest rise of a token's probability between two rows, and what made it.

    Attributes:
        layer: The block between the two rows.
        step: By how much the log-probability under the lens rose there, nats; negative where the
            probability falls at every block.
        component: "attention", "ssm" (another mixer in its place), "mlp", or "whole_block" (a
            block that can't be split): the one with the larger part.
        attention, mlp: The part of each, nats; they sum to ``step``. What else the block writes
            counts with the mixer if it comes before the MLP, and with the MLP if after. In a
            sequential block attention comes first and the MLP second; in a parallel one, where
            neither comes first, each gets the mean over both orders (Shapley 1953).
        heads: [n] heads of the layer, largest contribution first; empty if the attention can't be
            split into heads.
        head_logits: [n] what each adds to the token's logit directly (norm's scale frozen).
        head_sources: [n] position from which each takes the largest part of that.
        mlp_logit: What the layer's MLP adds to that logit directly.
    """

    layer: int
    step: float
    component: str
    attention: float
    mlp: float
    heads: Ints
    head_logits: Floats
    head_sources: Ints
    mlp_logit: float

    def __post_init__(self) -> None:
        check_shape("head_logits", self.head_logits, self.heads.shape)
        check_shape("head_sources", self.head_sources, self.heads.shape)


@dataclass(frozen=True, slots=True)
class Steps(Result):
    """Tokens' curves over the rows of the logit lens at one position.

    Attributes:
        position: Where.
        rows: [row] 0 to the number of layers.
        tokens: [token] the tokens followed.
        probs: [row, token] 0 to 1. log_probs: [row, token] nats. ranks: [row, token] 0 is best.
        entropy: [row] of each row's distribution, nats.
        kl_to_final: [row] KL(model's output || row's distribution), nats.
        tau: The probability that ``emergence`` needs.
        first_top1, emergence, saturation: [token] rows (None: never), as in ``Emergence``.
        largest: [token] the largest step of each.
        actual: The prompt's own next token; -1 at the last position.
    """

    position: int
    rows: Ints
    tokens: tuple[Token, ...]
    probs: Floats
    log_probs: Floats
    ranks: Ints
    entropy: Floats
    kl_to_final: Floats
    tau: float
    first_top1: tuple[MaybeRow, ...]
    emergence: tuple[MaybeRow, ...]
    saturation: tuple[MaybeRow, ...]
    largest: tuple[LargestStep, ...]
    actual: int

    def __post_init__(self) -> None:
        for name in ("probs", "log_probs", "ranks"):
            check_shape(name, getattr(self, name), (len(self.rows), len(self.tokens)))
        for name in ("entropy", "kl_to_final"):
            check_shape(name, getattr(self, name), (len(self.rows),))
        for name in ("first_top1", "emergence", "saturation", "largest"):
            if len(getattr(self, name)) != len(self.tokens):
                raise ValueError(f"{name} needs one entry for each token")


@dataclass(frozen=True, slots=True)
class LargestSteps(Result):
    """At every position: the largest step of the model's own final token, and what made it.

    Attributes:
        token_ids: [pos] the model's own top token at each position.
        layer: [pos]. step, attention, mlp: [pos] nats; as in ``LargestStep``.
        head: [pos] the head of that layer that adds most to the token's logit; -1 if the MLP
            made more of the step, or the attention can't be split into heads.
        head_logit: [pos] what it adds, in logits; NaN where ``head`` is -1.
        source: [pos] position from which it takes the largest part of that; -1 likewise.
        vocabulary: Every token named above, by ascending id.
    """

    token_ids: Ints
    layer: Ints
    step: Floats
    attention: Floats
    mlp: Floats
    head: Ints
    head_logit: Floats
    source: Ints
    vocabulary: tuple[Token, ...]

    def __post_init__(self) -> None:
        for name in ("layer", "step", "attention", "mlp", "head", "head_logit", "source"):
            check_shape(name, getattr(self, name), self.token_ids.shape)


_POSITION = about("The position.")
_TAU = about("The probability from which a token counts as emerged, above 0 and at most 1.")


@dataclass(frozen=True, slots=True)
class EmergenceSpec(Spec[Emergence]):
    """When each position's final token emerges."""

    tau: float = field(default=0.5, metadata=_TAU)
    causal: bool = field(
        default=False,
        metadata=about("Measure the causal commit row too."),
    )

    def __post_init__(self) -> None:
        _check_tau(self.tau)


@dataclass(frozen=True, slots=True)
class StorySpec(Spec[Story]):
    """The facts behind the page's sentence: how a token emerges at a position."""

    position: int = field(default=-1, metadata=_POSITION)
    token: int | None = field(
        default=None,
        metadata=about("The token's id; the model's own top token there unless given."),
    )
    tau: float = field(default=0.5, metadata=_TAU)


@dataclass(frozen=True, slots=True)
class StepsSpec(Spec[Steps]):
    """How tokens emerge at one position, row by row."""

    position: int = field(default=-1, metadata=_POSITION)
    tokens: tuple[int, ...] = field(
        default=(), metadata=about("Token ids; the model's own top token there unless given.")
    )
    tau: float = field(default=0.5, metadata=_TAU)

    def __post_init__(self) -> None:
        _check_tau(self.tau)


@dataclass(frozen=True, slots=True)
class LargestStepSpec(Spec[LargestSteps]):
    """At every position: what made the largest step of its final token between two rows."""


def _check_tau(tau: float) -> None:
    if not 0.0 < tau <= 1.0:
        raise SpecError("tau is a probability: above 0, at most 1.", "Try 0.5.")
