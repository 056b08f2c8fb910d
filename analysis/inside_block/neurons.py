"""The neurons of an opened block: effects on the logit, what they read and what they write."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from analysis.attribution.direct import LogitDirection, Target
from analysis.contract.specs import Floats, Ints
from analysis.inside_block.specs import BlockSpec
from analysis.model.handle import Model
from analysis.model.probe import relative_error, tolerance
from analysis.model.readout import NormForm
from analysis.model.stream import linear_weights
from analysis.tracing.capture import Trace
from analysis.tracing.mlp import MlpInside, linear_calls
from analysis.tracing.vocabulary import extremes, token_logits, top_k
from analysis.weights.circuits import has_embeddings

#: A norm, its input and its output.
Normed = tuple[NormForm, Tensor, Tensor]


@dataclass
class NeuronLists:
    """The strongest neurons of an MLP."""

    ids: Ints
    activations: Floats
    effects: Floats
    reads: Tensor
    readers: tuple[str, ...]
    writes: Tensor
    error: float = float("nan")
    missing: str = ""


def direct_tokens(model: Model, trace: Trace, position: int, parts: Tensor, k: int) -> Tensor:
    """[n, k] tokens that parts [n, d_model] promote most, the final norm frozen."""
    state = torch.from_numpy(trace.resid[-1, position])
    return extremes(token_logits(model, parts, state), k)[0]


def neuron_lists(
    model: Model, trace: Trace, layer: int, inside: MlpInside | None, target: Target,
    spec: BlockSpec, norm: Normed | None,
) -> NeuronLists:  # fmt: skip
    """The neurons that change the logit most, and the tokens that they read and write."""
    none = torch.zeros(0, 0, spec.k)
    if inside is None or not model.readout.linear:
        missing = "" if inside is None else "The logits are not linear in the last state."
        blank = np.zeros(0, np.float32)
        ids, written = np.zeros(0, np.int64), none.flatten(1)
        return NeuronLists(ids, blank, blank, none, (), written, missing=missing)
    position = target.position
    direction = LogitDirection(model, trace, position, target.token, target.foil)
    added = inside.through(inside.weight * inside.activation[:, None])
    effects = direction.of(added, layer + 1)
    chosen = effects.abs().topk(min(spec.neurons, len(effects))).indices
    whole = torch.from_numpy(trace.mlp_out[layer, position])
    readers = _reading_rows(model, trace, target.position, layer, inside, norm)
    return NeuronLists(
        chosen.numpy().astype(np.int64),
        inside.activation[chosen].numpy().astype(np.float32),
        effects[chosen].numpy().astype(np.float32),
        torch.stack(
            [_embeddings_along(model, rows[chosen], spec.k) for rows in readers.values()], 1
        )
        if readers
        else none,
        tuple(readers),
        direct_tokens(model, trace, position, added[chosen], spec.k),
        relative_error(added.sum(0) + inside.bias, whole),
    )


def _reading_rows(
    model: Model, trace: Trace, position: int, layer: int, inside: MlpInside, norm: Normed | None
) -> dict[str, Tensor]:
    """Name -> [neuron, d_model] rows of the matrices that the MLP reads with, the norm folded in.

    They are the linear modules that read what the MLP reads and return a number for each neuron,
    or two as a fused gate and up projection.
    """
    if norm is None or not has_embeddings(model):
        return {}
    form, _, read = norm
    block, neurons = model.stream.blocks[layer], len(inside.activation)
    names = {id(part): name for name, part in block.module.named_modules()}
    found: dict[str, Tensor] = {}
    limit = 10 * tolerance(model.dtype)
    for module, state, output in linear_calls(model, trace, layer):
        if output.shape[-1] not in (neurons, 2 * neurons):
            continue
        if state.shape[-1] != len(read) or relative_error(state[position], read) > limit:
            continue
        rows = linear_weights(module, state.shape[-1])[0].T * form.scale
        name = names[id(module)].rpartition(".")[2]
        if len(rows) == 2 * neurons:
            found[f"{name}, gate"], found[f"{name}, up"] = torch.split(rows, neurons)
        else:
            found[name] = rows
    return found


def _embeddings_along(model: Model, rows: Tensor, k: int) -> Tensor:
    """[n, k] tokens whose embeddings have the largest product with rows [n, d_model]."""
    matrix = model.readout.input_rows.detach()
    return top_k((rows.to(matrix.device, matrix.dtype) @ matrix.T).float().cpu(), k)[1]
