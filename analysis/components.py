"""The states that can be read: which rows of what, for each component."""

from __future__ import annotations

import numpy as np

from analysis.capture import Trace
from analysis.errors import SpecError
from analysis.models.handle import Model
from analysis.parts import head_parts
from analysis.results.base import Floats
from analysis.specs import LensSpec, resolve_index


def axis_size(model: Model, component: str) -> int:
    """Entries of the first axis: rows for block outputs, layers for the parts of a block."""
    return model.info.layers + (1 if component == "block_output" else 0)


def decoder_row(component: str, index: int) -> int:
    """The row at which an interpolated decoder reads entry ``index``: after its layer."""
    return index if component == "block_output" else index + 1


def states_of(model: Model, trace: Trace, spec: LensSpec, index: int) -> Floats:
    """[pos, d_model] the states of one row or layer.

    Raises:
        SpecError: If a parallel model is asked for a mid residual, or a head does not exist.
    """
    stored = {
        "block_output": trace.resid,
        "attention_output": trace.attn_out,
        "mlp_output": trace.mlp_out,
    }
    if spec.component in stored:
        plain: Floats = stored[spec.component][index]
        return plain
    if spec.component == "mid_residual":
        if model.info.parallel_blocks:
            raise SpecError(
                "This model's attention and MLP run in parallel: it has no mid residual.",
                "Read the block output instead.",
            )
        middle: Floats = trace.resid[index] + trace.attn_out[index]
        return middle
    head = resolve_index("Head", spec.head or 0, model.info.heads)
    states: Floats = head_parts(model, trace, index).heads()[head].numpy().astype(np.float32)
    return states
