"""What a link of a flow graph writes: its vector, read as tokens."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from analysis.capture import Trace
from analysis.errors import SpecError
from analysis.link_specs import LinkSpec
from analysis.models.handle import Model
from analysis.parts import has_heads, head_parts
from analysis.results import LinkReading
from analysis.specs import resolve_index
from analysis.token_logits import extremes, kl, log_probs, token_logits
from analysis.tokens import vocabulary


@torch.no_grad()
def compute(model: Model, trace: Trace, spec: LinkSpec) -> LinkReading:
    """The tokens that a link promotes and suppresses, its norm, and two divergences.

    The vector goes through the final norm with its scale frozen at the last state of the position
    it writes to, and through the unembedding. ``kl_source`` is InTraVisTo's link KL on vocabulary
    distributions; ``kl_without`` says how much the target's reading changes without the link.

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``.
        spec: Which link.

    Raises:
        SpecError: If there is no such link, or the heads can't be told apart.
    """
    layer, head, source, target = _place(model, trace, spec)
    vector = _vector(model, trace, spec.kind, layer, head, source, target)
    whole = _whole(model, trace, spec.kind, layer, target)
    state = torch.from_numpy(trace.resid[-1, target])
    promoted, raised, suppressed, lowered = extremes(
        token_logits(model, vector[None], state), spec.k
    )
    read = log_probs(model, torch.stack([whole, vector, whole - vector]))
    ids = np.unique(torch.cat([promoted[0], suppressed[0]]).numpy()).tolist()
    return LinkReading(
        kind=spec.kind,
        layer=layer,
        head=-1 if head is None else head,
        source_pos=source,
        target_pos=target,
        norm=float(vector.norm()),
        share_of_norm=float(vector.norm() / whole.norm().clamp_min(1e-30)),
        promoted=promoted[0].numpy(),
        promoted_logits=raised[0].numpy(),
        suppressed=suppressed[0].numpy(),
        suppressed_logits=lowered[0].numpy(),
        kl_source=kl(read[0], read[1]),
        kl_without=kl(read[0], read[2]),
        vocabulary=vocabulary(model.tokenizer, ids),
    )


def _place(model: Model, trace: Trace, spec: LinkSpec) -> tuple[int, int | None, int, int]:
    """Layer, head, source and target, counted from the start and known to exist."""
    layer = resolve_index("Layer", spec.layer, model.info.layers)
    source = resolve_index("Source position", spec.source_pos, len(trace.tokens))
    target = resolve_index("Target position", spec.target_pos, len(trace.tokens))
    head = None if spec.head is None else resolve_index("Head", spec.head, model.info.heads)
    if source > target:
        raise SpecError(f"Position {target} can't see position {source}.", "Swap them.")
    return layer, head, source, target


def _vector(
    model: Model, trace: Trace, kind: str, layer: int, head: int | None, source: int, target: int
) -> Tensor:
    """[d_model] what the link adds to the state it writes into."""
    if kind == "mlp":
        return torch.from_numpy(trace.mlp_out[layer, target])
    if kind == "residual":
        return torch.from_numpy(trace.resid[layer, target])
    if not has_heads(model, layer):
        if kind == "bias" and not model.stream.blocks[layer].heads:
            return torch.from_numpy(trace.attn_out[layer, target])
        raise SpecError(
            f"The heads of layer {layer} can't be told apart.", "Read the attention output."
        )
    parts = head_parts(model, trace, layer)
    if kind == "bias":
        return parts.bias[target]
    vectors = parts.sources(target)[:, source]
    return vectors.sum(0) if head is None else vectors[head]


def _whole(model: Model, trace: Trace, kind: str, layer: int, target: int) -> Tensor:
    """[d_model] the state that the link writes into: mid residual, or the block's output."""
    if kind == "mlp" or model.info.parallel_blocks:
        return torch.from_numpy(trace.resid[layer + 1, target])
    return torch.from_numpy(trace.resid[layer, target] + trace.attn_out[layer, target])
