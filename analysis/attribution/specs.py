"""Spec and result of direct logit attribution."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from analysis.contract.choices import about
from analysis.contract.specs import Floats, Result, Spec


class Contribution(NamedTuple):
    """What one part of the last state adds to a logit.

    Attributes:
        kind: "embedding", "head", "attention_bias", "mlp", another part of a block such as
            "per_layer_embedding", "whole_block" (a block that can't be split), or
            "bias" (of final norm and unembedding).
        layer: Its block; None for the embedding and the last bias.
        head: Its head; None for the other kinds.
        logit: In logits.
    """

    kind: str
    layer: int | None
    head: int | None
    logit: float


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
        other_parts: Names of further parts of a block, such as "per_layer_embedding".
        others: [part, layer] from each of them.
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
    other_parts: tuple[str, ...] = ()
    others: Floats = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    @property
    def total(self) -> float:
        """The sum of all parts; equals ``logit`` up to rounding."""
        parts = (self.heads.sum(), self.attention_bias.sum(), self.mlps.sum(), self.others.sum())
        total = sum(float(part) for part in parts)
        return float(self.embedding + total + self.bias + self.interventions)

    @property
    def residual_error(self) -> float:
        """``total`` minus ``logit``, in logits."""
        return self.total - self.logit

    @property
    def parts(self) -> tuple[Contribution, ...]:
        """All parts in the order of the model, without those that do not exist or add nothing."""
        found = [Contribution("embedding", None, None, self.embedding)]
        for layer, (heads, bias, mlp) in enumerate(
            zip(self.heads.tolist(), self.attention_bias.tolist(), self.mlps.tolist(), strict=True)
        ):
            if any(heads):
                found += [Contribution("head", layer, at, logit) for at, logit in enumerate(heads)]
            if bias:
                found.append(Contribution("attention_bias", layer, None, bias))
            further = zip(
                self.other_parts, [row[layer] for row in self.others.tolist()], strict=True
            )
            found += [
                Contribution(part, layer, None, logit)
                for part, logit in (("mlp", mlp), *further)
                if logit
            ]
        return (*found, Contribution("bias", None, None, self.bias)) if self.bias else tuple(found)


@dataclass(frozen=True, slots=True)
class AttributionSpec(Spec[Attribution]):
    """What every head, MLP, embedding and bias adds to one token's logit."""

    position: int = field(default=-1, metadata=about("The position that predicts the token."))
    token: int | None = field(
        default=None, metadata=about("The token's id; the model's own top token unless given.")
    )
    foil: int | None = field(
        default=None,
        metadata=about("The id of the token whose logit is subtracted; none unless given."),
    )
