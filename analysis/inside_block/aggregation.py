"""How much of what attention and MLPs write is already in the states that they read."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from analysis.contract import jobs
from analysis.errors import SpecError
from analysis.inside_block.specs import AggregationReport, AggregationSpec
from analysis.model.handle import Model
from analysis.tracing.capture import Trace

#: Most positions in the means; they are spread evenly.
POSITIONS = 64


@torch.no_grad()
def compute(model: Model, trace: Trace, spec: AggregationSpec) -> AggregationReport:
    """The report on aggregation; see ``aggregation_report``.

    Raises:
        SpecError: If the prompt has too few tokens for the rank.
        CancelledError: If the caller's progress listener stops the work.
    """
    trace.require_model(model)
    size, width = len(trace.tokens), model.info.d_model
    if size <= spec.rank:
        raise SpecError(
            f"A prompt of {size} tokens has no span of rank {spec.rank} to compare with.",
            "Choose a longer prompt or a smaller rank.",
        )
    positions = np.unique(np.linspace(spec.rank, size - 1, POSITIONS).astype(int)).tolist()
    generator = torch.Generator().manual_seed(spec.seed)
    turn = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
    shares = np.full((4, model.info.layers), np.nan, np.float32)
    for layer, block in enumerate(model.stream.blocks):
        bases = [_basis(trace, layer, position, spec.rank) for position in positions]
        for place, (part, array) in enumerate(
            (("attention", trace.attn_out), ("mlp", trace.mlp_out))
        ):
            if block.writes(part):
                written = torch.from_numpy(array[layer, positions])
                shares[place, layer] = _inside(written, bases)
                shares[place + 2, layer] = _inside(written @ turn, bases)
        jobs.step(layer + 1, model.info.layers, "Comparing with the states")
        jobs.pause()
    return AggregationReport(
        spec.rank, width, len(positions), shares[0], shares[1], shares[2], shares[3], spec.seed
    )


def _basis(trace: Trace, layer: int, position: int, rank: int) -> Tensor:
    """[rank, d_model] the main directions of the states that a position sees."""
    states = torch.from_numpy(trace.resid[layer, : position + 1])
    directions: Tensor = torch.linalg.svd(states, full_matrices=False).Vh
    return directions[:rank]


def _inside(written: Tensor, bases: list[Tensor]) -> float:
    """The mean share of squared length inside each position's span; zeros are left out."""
    shares = [
        float((basis @ one).square().sum() / one.square().sum())
        for one, basis in zip(written, bases, strict=True)
        if bool(one.any())
    ]
    return float(np.mean(shares)) if shares else float("nan")


def aggregation_report(
    model: Model, trace: Trace, *, rank: int = 4, seed: int = 0
) -> AggregationReport:
    """How much of attention's and the MLPs' output is in the span of the states that they read.

    The span at a position is made of the ``rank`` main right singular vectors of the states of all
    positions that it sees, before the block. Pure averaging of states would lie inside it. In the
    control, the output matrix is multiplied by a seeded random orthogonal matrix, which keeps its
    spectrum: ``rank / d_model`` is expected inside.

    Args:
        model: From ``load_model``.
        trace: From ``trace``, with more tokens than ``rank``.
        rank: Dimensions of the span.
        seed: The seed of the random matrix.

    Raises:
        SpecError: If the prompt has too few tokens.
    """
    return compute(model, trace, AggregationSpec(rank, seed))
