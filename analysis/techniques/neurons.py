"""The neurons of an MLP that are most responsible for a logit, and what each promotes."""

from __future__ import annotations

import torch
from torch import Tensor

from analysis.capture import Trace
from analysis.cuts import target_of
from analysis.direct import LogitDirection
from analysis.link_specs import NeuronSpec
from analysis.mlp_inside import mlp_inside
from analysis.models.handle import Model
from analysis.results import Neurons
from analysis.specs import resolve_index
from analysis.token_logits import extremes, token_logits
from analysis.tokens import vocabulary


@torch.no_grad()
def compute(model: Model, trace: Trace, spec: NeuronSpec) -> Neurons:
    """Rank neurons by activation times output direction.

    A neuron writes its activation times its row of the down projection (Geva et al. 2021, arXiv
    2012.14913), read as in direct logit attribution: through the post-norm, if any, and the final
    norm, scales frozen. All neurons and the bias sum to what the MLP adds.

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``.
        spec: Which MLP and position, and how many.

    Raises:
        SpecError: If the layer, position or token does not exist, or experts are mixed.
    """
    layer = resolve_index("Layer", spec.layer, model.info.layers)
    target = target_of(model, trace, spec.position, spec.token, spec.foil)
    inside = mlp_inside(model, trace, layer, target.position)
    direction = LogitDirection(model, trace, target.position, target.token, target.foil)
    written = inside.through(inside.activation[:, None] * inside.weight)
    logits, norms = direction.of(written), written.norm(dim=-1)
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
        total=float(logits.double().sum() + direction.of(inside.bias)),
        bias=float(direction.of(inside.bias)),
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
