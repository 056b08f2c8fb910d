"""Result of direct logit attribution."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.contract.results import Floats, Result


@dataclass(frozen=True, slots=True)
class Attribution(Result):
    """Direct logit attribution at one position (the final norm's scale frozen).

    Attributes:
        position: The position that predicts the token.
        token: The token whose logit is explained.
        foil: The token that is subtracted; None for a plain logit.
        embedding: Logit units from the embedding row.
        heads: [layer, head] from each head.
        attention_bias: [layer] from the attention output's bias.
        mlps: [layer] from each MLP.
        bias: From the final norm's and the unembedding's biases.
        logit: The model's own logit before any soft cap, or lead over the foil: what the parts
            sum to.
        interventions: From states that interventions put in, and vectors that they added. Parts
            before a replaced state add nothing.
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
    interventions: float = 0.0

    @property
    def total(self) -> float:
        """The sum of all parts; equals ``logit`` up to rounding."""
        parts = (self.heads.sum(), self.attention_bias.sum(), self.mlps.sum())
        total = sum(float(part) for part in parts)
        return float(self.embedding + total + self.bias + self.interventions)

    @property
    def residual_error(self) -> float:
        """``total`` minus ``logit``, in logits."""
        return self.total - self.logit
