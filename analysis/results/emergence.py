"""When a token emerges, and what makes it."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.results.base import Floats, Ints, Token, check_shape

MaybeRow = int | None


@dataclass(frozen=True, slots=True)
class Emergence:
    """Per position, the rows at which the model's final choice emerges (None: never).

    Attributes:
        token_ids: [pos] the model's own top token at each position.
        tau: The probability that ``emergence`` asks for.
        first_top1: [pos] first row where that token ranks first.
        emergence: [pos] first row from which its probability stays at least ``tau``.
        saturation: [pos] first row from which it ranks first at every later row.
        causal_commit: [pos] first row from which zeroing attention at every later layer keeps
            the choice; None as a whole where it was not asked for.
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
class Attribution:
    """Direct logit attribution at one position (the final norm's scale frozen).

    Attributes:
        position: Where.
        token: The token whose logit is explained.
        foil: The token it is held against; None for a plain logit.
        embedding: Logit units from the embedding row.
        heads: [layer, head] from each head.
        attention_bias: [layer] from the attention output's bias.
        mlps: [layer] from each MLP.
        bias: From the final norm's and the unembedding's biases.
        logit: What all parts add up to in the model: the logit before any soft cap, or difference.
    """

    position: int
    token: int
    foil: int | None
    embedding: float
    heads: Floats
    attention_bias: Floats
    mlps: Floats
    bias: float
    logit: float

    @property
    def total(self) -> float:
        """The sum of all parts; equals ``logit`` up to rounding."""
        parts = (self.heads.sum(), self.attention_bias.sum(), self.mlps.sum())
        return float(self.embedding + sum(float(part) for part in parts) + self.bias)

    @property
    def residual_error(self) -> float:
        """``total`` minus ``logit``, in logits."""
        return self.total - self.logit


@dataclass(frozen=True, slots=True)
class Story:
    """The facts behind the page's one sentence.

    Attributes:
        position: Whose next token is told.
        token: That token.
        prob: Its final probability, 0 to 1.
        first_top1, emergence, saturation: Rows, None for never.
        step_layer: Layer of the component that adds most to the token's logit.
        step_head: Its head; None where the MLP adds most.
        step_logit: How much it adds, in logits.
        step_source: Position from which the head takes the largest part of what it adds to the
            logit; None for an MLP.
        attribution: All of them.
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
    attribution: Attribution
