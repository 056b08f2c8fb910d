"""What one link of a flow graph writes, and the neurons that write the link of an MLP."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from analysis.attribution.direct import LogitDirection, target_of
from analysis.contract.specs import OTHER_PARTS, PART_NAMES, resolve_index
from analysis.errors import SpecError
from analysis.flow_graph.results import LinkReading, Neurons
from analysis.flow_graph.specs import LinkSpec, NeuronSpec
from analysis.model.handle import Model
from analysis.tracing.capture import Trace
from analysis.tracing.heads import has_heads, head_parts, other_parts
from analysis.tracing.mlp import mlp_inside
from analysis.tracing.tokens import vocabulary
from analysis.tracing.vocabulary import extremes, kl, log_probs, token_logits


@torch.no_grad()
def compute(model: Model, trace: Trace, spec: LinkSpec) -> LinkReading:
    """The tokens that a link promotes and suppresses, its norm, and two divergences.

    The vector goes through the final norm with its scale frozen at the last state of the position
    it writes to, and through the unembedding. ``kl_source`` is InTraVisTo's link KL on vocabulary
    distributions; ``kl_without`` is how much the target's lens changes without the link.

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``.
        spec: The link.

    Raises:
        SpecError: If there is no such link, no heads, or an intervention edited its target.
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
        kl_source=float(kl(read[0], read[1])),
        kl_without=float(kl(read[0], read[2])),
        vocabulary=vocabulary(model.tokenizer, ids),
    )


def _place(model: Model, trace: Trace, spec: LinkSpec) -> tuple[int, int | None, int, int]:
    """Layer, head, source and target, checked and counted from the start."""
    trace.require_model(model)
    layer = resolve_index("Layer", spec.layer, model.info.layers)
    source = resolve_index("Source position", spec.source_pos, len(trace.tokens))
    target = resolve_index("Target position", spec.target_pos, len(trace.tokens))
    head = None if spec.head is None else model.head_index(layer, spec.head)
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
        return torch.from_numpy(trace.kept(layer)[target])
    if kind in OTHER_PARTS:
        others = other_parts(model, trace, layer)
        if kind not in others:
            raise SpecError(f"Layer {layer} has no {PART_NAMES[kind]}.", "Choose another link.")
        return torch.from_numpy(others[kind][target])
    if not has_heads(model, layer):
        raise SpecError(
            f"The attention of layer {layer} can't be split into heads.",
            "Use the attention output as a whole.",
        )
    parts = head_parts(model, trace, layer)
    if kind == "bias":
        return parts.sourceless(torch.tensor([target]))[0]
    vectors = parts.sources(target)[:, source]
    return vectors.sum(0) if head is None else vectors[head]


def _whole(model: Model, trace: Trace, kind: str, layer: int, target: int) -> Tensor:
    """[d_model] the state that the link writes into: mid residual, or the block's output."""
    if kind in ("mlp", "per_layer_embedding", "whole_block") or model.info.parallel_blocks:
        trace.require_sums(slice(layer + 1, layer + 2), target)
        return torch.from_numpy(trace.resid[layer + 1, target])
    return torch.from_numpy(trace.middle(layer)[target])


@torch.no_grad()
def compute_neurons(model: Model, trace: Trace, spec: NeuronSpec) -> Neurons:
    """Rank neurons by activation times output direction.

    A neuron writes its activation times its row of the down projection (Geva et al. 2021, arXiv
    2012.14913), read as in direct logit attribution: through the post-norm, if any, and the final
    norm, scales frozen. All neurons and the bias sum to what the MLP adds.

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``.
        spec: The MLP, the position, and how many neurons.

    Raises:
        SpecError: If the layer, position or token does not exist, or the MLP mixes experts.
    """
    layer = resolve_index("Layer", spec.layer, model.info.layers)
    target = target_of(model, trace, spec.position, spec.token, spec.foil)
    inside = mlp_inside(model, trace, layer, target.position)
    direction = LogitDirection(model, trace, target.position, target.token, target.foil)
    written = inside.through(inside.activation[:, None] * inside.weight)
    logits, norms = direction.of(written, layer + 1), written.norm(dim=-1)
    best = (norms if spec.by == "norm" else logits.abs()).topk(min(spec.k, len(norms))).indices
    ids, raised = _promoted(model, trace, target.position, written[best], spec.tokens)
    return Neurons(
        layer=layer,
        position=target.position,
        token=target.token,
        foil=target.foil_id,
        by=spec.by,
        neuron=best.numpy(),
        activation=inside.activation[best].numpy(),
        logit=logits[best].numpy(),
        norm=norms[best].numpy(),
        tokens=ids.numpy(),
        token_logits=raised.numpy(),
        total=float(logits.double().sum() + direction.of(inside.bias, layer + 1)),
        bias=float(direction.of(inside.bias, layer + 1)),
        size=len(inside.activation),
        vocabulary=vocabulary(model.tokenizer, sorted(set(ids.flatten().tolist()))),
    )


def _promoted(
    model: Model, trace: Trace, position: int, vectors: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Ids and logits of the k tokens that each vector [n, d_model] promotes most."""
    state = torch.from_numpy(trace.resid[-1, position])
    ids, raised, _, _ = extremes(token_logits(model, vectors, state), k)
    return ids, raised
