"""Result of direct logit attribution."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.contract.results import Floats, Result


@dataclass(frozen=True, slots=True)
class Attribution(Result):
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
