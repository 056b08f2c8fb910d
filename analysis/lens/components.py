"""The states that can be read: which rows of what, for each component."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch

from analysis.contract.results import Floats, Ints
from analysis.contract.specs import resolve_index
from analysis.errors import SpecError
from analysis.lens.specs import LensSpec, PromotedSpec
from analysis.model.handle import Model
from analysis.tracing.capture import Trace
from analysis.tracing.heads import head_parts

#: What names a component, its head and its source.
Asked: TypeAlias = LensSpec | PromotedSpec


def axis_size(model: Model, component: str) -> int:
    """Entries of the first axis: rows for block outputs, layers for the parts of a block."""
    return model.info.layers + (1 if component == "block_output" else 0)


def decoder_row(component: str, index: int) -> int:
    """The row at which an interpolated decoder reads entry ``index``: after its layer."""
    return index if component == "block_output" else index + 1


def entries(name: str, wanted: tuple[int, ...] | None, size: int) -> list[int]:
    """The entries of an axis that are asked for, counted from the start; all of them for None.

    Raises:
        SpecError: If one does not exist; ``name`` says of what axis.
    """
    if wanted is None:
        return list(range(size))
    return [resolve_index(name, value, size) for value in wanted]


def readable(spec: Asked, positions: list[int], size: int) -> Ints:
    """Places in ``positions`` of those that have a state: before its source, a head read nothing.

    Raises:
        SpecError: If the source does not exist.
    """
    first = 0 if spec.source is None else resolve_index("Source position", spec.source, size)
    places: Ints = np.flatnonzero(np.array(positions) >= first)
    return places


def states_of(model: Model, trace: Trace, spec: Asked, index: int) -> Floats:
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
        SpecError: If a parallel model is asked for a mid residual, or a head or source does not
            exist, or heads can't be told apart.
    """
    states: Floats = _STATES[spec.component](model, trace, spec, index)
    return states


def _mid_residual(model: Model, trace: Trace, spec: Asked, layer: int) -> Floats:
    if model.info.parallel_blocks:
        raise SpecError(
            "This model's attention and MLP run in parallel: it has no mid residual.",
            "Read the block output instead.",
        )
    middle: Floats = trace.resid[layer] + trace.attn_out[layer]
    return middle


def _head_output(model: Model, trace: Trace, spec: Asked, layer: int) -> Floats:
    head = resolve_index("Head", spec.head or 0, model.info.heads)
    states: Floats = head_parts(model, trace, layer).heads()[head].numpy().astype(np.float32)
    return states


def _source_output(model: Model, trace: Trace, spec: Asked, layer: int) -> Floats:
    head = resolve_index("Head", spec.head or 0, model.info.heads)
    source = resolve_index("Source position", spec.source or 0, len(trace.tokens))
    weights, vectors = head_parts(model, trace, layer).factors(torch.arange(len(trace.tokens)))
    states: Floats = (weights[head, :, source, None] * vectors[head, source]).numpy()
    return states.astype(np.float32)


_STATES: dict[str, Callable[[Model, Trace, Asked, int], Floats]] = {
    "block_output": lambda _model, trace, _spec, row: trace.resid[row],
    "attention_output": lambda _model, trace, _spec, layer: trace.attn_out[layer],
    "mlp_output": lambda _model, trace, _spec, layer: trace.mlp_out[layer],
    "block_increment": lambda _model, trace, _spec, layer: (
        trace.resid[layer + 1] - trace.resid[layer]
    ),
    "mid_residual": _mid_residual,
    "head_output": _head_output,
    "source_output": _source_output,
}
