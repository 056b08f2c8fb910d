"""The states that a component reads: the functions of ``options.COMPONENTS``."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch

from analysis.contract.specs import NO_ATTENTION, PART_NAMES, Floats, resolve_index
from analysis.errors import SpecError
from analysis.lens.options import COMPONENTS
from analysis.lens.specs import LensSpec, PromotedSpec
from analysis.model.handle import Model
from analysis.tracing.capture import Trace
from analysis.tracing.heads import head_parts, other_parts

ComponentSpec: TypeAlias = LensSpec | PromotedSpec


def states_of(model: Model, trace: Trace, spec: ComponentSpec, index: int) -> Floats:
    """[pos, d_model] the states of one row or layer.

    "block_increment" is what a block adds, ``resid[layer + 1] - resid[layer]``. "source_output" is
    what one head adds from one source position, ``pattern[i, j] · v[j] · W_O`` (Kobayashi et al.
    2020, arXiv 2004.10102), through a post-norm with its scale frozen and any multiplier; over
    all sources it sums to "head_output". At positions before the source it is 0.

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``.
        spec: Names the component, and its head and source.
        index: Entry of the component's first axis.

    Raises:
        SpecError: If the model has no mid residual, a head or source does not exist, or the
            attention can't be split into heads.
    """
    trace.require_model(model)
    states: Floats = COMPONENTS[spec.component].load()(model, trace, spec, index)
    return states


def block_output(model: Model, trace: Trace, spec: ComponentSpec, row: int) -> Floats:
    """``resid[row]``."""
    states: Floats = trace.resid[row]
    return states


def attention_output(model: Model, trace: Trace, spec: ComponentSpec, layer: int) -> Floats:
    """``attn_out[layer]``; refused in a model without attention."""
    _require_heads(model)
    states: Floats = trace.attn_out[layer]
    return states


def _require_heads(model: Model) -> None:
    if not model.info.heads:
        raise SpecError(NO_ATTENTION, "Read ssm_output instead.")


def mlp_output(model: Model, trace: Trace, spec: ComponentSpec, layer: int) -> Floats:
    """``mlp_out[layer]``."""
    states: Floats = trace.mlp_out[layer]
    return states


def _require_part(model: Model, part: str) -> None:
    if part not in model.info.parts:
        raise SpecError(f"This model has no {PART_NAMES[part]}.", "Choose another component.")


def ssm_output(model: Model, trace: Trace, spec: ComponentSpec, layer: int) -> Floats:
    """What a state space model adds, beside attention or in its place; else zero."""
    _require_part(model, "ssm")
    others = other_parts(model, trace, layer)
    states: Floats = others["ssm"] if "ssm" in others else np.zeros_like(trace.attn_out[layer])
    return states


def per_layer_embedding_output(
    model: Model, trace: Trace, spec: ComponentSpec, layer: int
) -> Floats:
    """What the per-layer embedding adds."""
    _require_part(model, "per_layer_embedding")
    return trace.others(layer)["per_layer_embedding"]


def block_increment(model: Model, trace: Trace, spec: ComponentSpec, layer: int) -> Floats:
    """``resid[layer + 1] - resid[layer]``."""
    states: Floats = trace.resid[layer + 1] - trace.resid[layer]
    return states


def mid_residual(model: Model, trace: Trace, spec: ComponentSpec, layer: int) -> Floats:
    """``resid_mid[layer]``; refused in parallel blocks."""
    if model.info.parallel_blocks:
        raise SpecError(
            "This model's attention and MLP run in parallel: it has no mid residual.",
            "Decode the block output instead.",
        )
    return trace.middle(layer)


def head_output(model: Model, trace: Trace, spec: ComponentSpec, layer: int) -> Floats:
    """What one head adds."""
    _require_heads(model)
    head = model.head_index(layer, spec.head or 0)
    states: Floats = head_parts(model, trace, layer).heads()[head].numpy().astype(np.float32)
    return states


def source_output(model: Model, trace: Trace, spec: ComponentSpec, layer: int) -> Floats:
    """What one head adds from one source position."""
    _require_heads(model)
    head = model.head_index(layer, spec.head or 0)
    source = resolve_index("Source position", spec.source or 0, len(trace.tokens))
    pairs = head_parts(model, trace, layer).factors(torch.arange(len(trace.tokens)))
    parts = [weights[head, :, source, None] * vectors[head, source] for weights, vectors in pairs]
    states: Floats = torch.cat(parts).numpy()
    return states.astype(np.float32)
