"""Attention patterns of a layer, with how much each head contributes."""

from __future__ import annotations

import numpy as np
import torch

from analysis.contract.specs import resolve_index
from analysis.model.handle import Model
from analysis.tracing.capture import Trace
from analysis.tracing.heads import has_heads, head_parts
from analysis.tracing.specs import PatternResult, PatternSpec


@torch.no_grad()
def compute(model: Model, trace: Trace, spec: PatternSpec) -> PatternResult:
    """Patterns [head, query, key] of one layer and the norm of each head's output.

    A head's contribution is the L2 norm of what it adds to the residual stream
    (Kobayashi et al. 2020, arXiv 2004.10102, summed over source positions as vectors).

    Raises:
        SpecError: If the layer does not exist.
    """
    layer = resolve_index("Layer", spec.layer, model.info.layers)
    pattern = trace.pattern[layer]
    if has_heads(model, layer):
        norms = head_parts(model, trace, layer).heads().norm(dim=-1).numpy()
    else:
        norms = np.full(pattern.shape[:2], np.nan, np.float32)
    total = np.maximum(norms.sum(0, keepdims=True), 1e-30)
    return PatternResult(
        layer,
        pattern,
        trace.sink[layer],
        norms.astype(np.float32),
        (norms / total).astype(np.float32),
    )
