"""The facts behind one sentence: when a token emerges at a position, and what makes it."""

from __future__ import annotations

import numpy as np
import torch

from analysis.attribution.direct import LogitDirection, attribute_logit
from analysis.attribution.results import Attribution
from analysis.contract.specs import resolve_index
from analysis.model.handle import Model
from analysis.tracing.capture import Trace
from analysis.tracing.heads import has_heads, head_parts
from analysis.tracing.tokens import describe_token
from analysis.trajectory.emergence import first_row, follow, staying_row
from analysis.trajectory.specs import Story, StorySpec


def compute(model: Model, trace: Trace, spec: StorySpec) -> Story:
    """How ``spec.token`` (the model's own choice unless given) comes about at a position.

    What adds most is the head or MLP with the largest part of the token's logit
    (direct logit attribution); a head reads where its largest part comes from.

    Raises:
        SpecError: If the position does not exist.
    """
    position = resolve_index("Position", spec.position, len(trace.tokens))
    token = spec.token if spec.token is not None else int(trace.logits[position].argmax())
    attribution = attribute_logit(model, trace, position, token, None)
    probs, ranks = follow(model, trace, np.array([token]), [position])
    leads, likely = ranks[:, 0] == 0, probs[:, 0] >= spec.tau
    layer, head, logit = _largest_step(attribution)
    return Story(
        position,
        describe_token(model.tokenizer, token),
        float(probs[-1, 0]),
        first_row(leads),
        staying_row(likely),
        staying_row(leads),
        layer,
        head,
        logit,
        None if head is None else _source(model, trace, layer, head, attribution),
        attribution,
    )


def _largest_step(attribution: Attribution) -> tuple[int, int | None, float]:
    layer, head = np.unravel_index(attribution.heads.argmax(), attribution.heads.shape)
    mlp = int(attribution.mlps.argmax())
    if attribution.mlps[mlp] > attribution.heads[layer, head]:
        return mlp, None, float(attribution.mlps[mlp])
    return int(layer), int(head), float(attribution.heads[layer, head])


@torch.no_grad()
def _source(
    model: Model, trace: Trace, layer: int, head: int, attribution: Attribution
) -> int | None:
    """The position from which the head takes the largest part of what it adds to the logit."""
    if not has_heads(model, layer):
        return None
    direction = LogitDirection(
        model, trace, attribution.position, attribution.token, attribution.foil
    )
    parts = head_parts(model, trace, layer).sources(attribution.position)[head]
    return int(direction.of(parts).argmax())
