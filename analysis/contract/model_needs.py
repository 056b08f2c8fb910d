"""What choices of several techniques need of a model."""

from __future__ import annotations

from analysis.contract.choices import Need
from analysis.contract.specs import NO_ATTENTION, NO_HEADS, NONLINEAR_HEAD, PART_NAMES

ATTENTION = Need(
    "attention",
    NO_ATTENTION,
    lambda situation: situation.model is None or situation.model.heads > 0,
)
SEPARATE_HEADS = Need(
    "attention that splits into heads",
    NO_HEADS,
    lambda situation: situation.model is None or situation.model.split_heads,
)
LINEAR_HEAD = Need(
    "logits that are linear in the last state",
    NONLINEAR_HEAD,
    lambda situation: situation.model is None or situation.model.linear_head,
)


def _has_part(part: str) -> Need:
    name = PART_NAMES[part]
    return Need(
        name,
        f"This model has no {name}.",
        lambda situation: situation.model is None or part in situation.model.parts,
    )


STATE_SPACE_MODEL = _has_part("ssm")
PER_LAYER_EMBEDDING = _has_part("per_layer_embedding")
