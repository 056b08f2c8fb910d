"""The block at which a token's probability rises most, and which of its parts made the rise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from analysis import progress
from analysis.capture import Trace
from analysis.direct import LogitDirection
from analysis.lens_math import row_stats
from analysis.models.handle import Model
from analysis.parts import has_heads, head_parts
from analysis.results import LargestStep
from analysis.results.base import Floats, Ints

CHUNK = 128


@torch.no_grad()
def log_probs(model: Model, states: Floats, tokens: Ints) -> Floats:
    """[n] log-probability under the logit lens of one token in each of n states, nats.

    Args:
        model: Whose lens.
        states: [n, d_model].
        tokens: [n].

    Raises:
        CancelledError: If the caller's progress listener stops the work.
    """
    readout, found = model.readout, []
    for start in range(0, len(states), CHUNK):
        part = torch.from_numpy(np.ascontiguousarray(states[start : start + CHUNK]))
        wanted = torch.from_numpy(tokens[start : start + CHUNK])[:, None].to(readout.device)
        logits = readout.logits(part.to(readout.device, readout.output_rows.dtype))
        stats = row_stats(logits, 1, wanted)
        found.append((stats.target_logits[:, 0] - stats.log_total).cpu())
        progress.step(start + len(part), len(states), "Following tokens")
    values: Floats = torch.cat(found).numpy()
    return values


@dataclass(frozen=True)
class Steps:
    """The largest steps of n tokens.

    Attributes:
        layer: [n] the blocks. step, attention, mlp: [n] nats.
    """

    layer: Ints
    step: Floats
    attention: Floats
    mlp: Floats


def largest(model: Model, trace: Trace, positions: Ints, tokens: Ints, rows: Floats) -> Steps:
    """Of each token the block with the largest rise in probability, split in log-probability.

    The block is chosen by probability: ln p rises most out of the embedding, where it is lowest,
    and from 1e-60 to 1e-20 nothing is decided.

    In a sequential block the mid residual is a state that the model has: attention makes the step
    to it, the MLP the step from it. In a parallel block neither comes first; each gets its mean
    step over both orders (Shapley 1953, "A value for n-person games"). Both ways they sum to the
    step.

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``.
        positions: [n].
        tokens: [n] one at each.
        rows: [row, n] their log-probabilities at all rows.
    """
    rises = np.diff(np.exp(rows.astype(np.float64)), axis=0)
    layer: Ints = rises.argmax(0)
    places = np.arange(len(layer))
    before, after = rows[layer, places], rows[layer + 1, places]
    state, attention = trace.resid[layer, positions], trace.attn_out[layer, positions]
    first = log_probs(model, state + attention, tokens) - before
    if model.info.parallel_blocks:
        alone = log_probs(model, state + trace.mlp_out[layer, positions], tokens)
        first = (first + (after - alone)) / 2
    step = after - before
    return Steps(layer, step, first, step - first)


@torch.no_grad()
def heads_of(
    model: Model, trace: Trace, layer: int, position: int, token: int
) -> tuple[Tensor, Tensor, float]:
    """What each head, and the MLP, of one layer adds directly to a token's logit.

    Returns:
        [head] logits, [head] the position that each takes the largest part of it from (both empty
        where the layer has no heads that can be told apart), and the MLP's logits.
    """
    direction = LogitDirection(model, trace, position, token, None)
    mlp = float(direction.of(torch.from_numpy(trace.mlp_out[layer, position])))
    if not has_heads(model, layer):
        return torch.zeros(0), torch.zeros(0, dtype=torch.long), mlp
    logits = direction.of(head_parts(model, trace, layer).sources(position))
    return logits.sum(-1), logits.argmax(-1), mlp


def describe(
    model: Model, trace: Trace, position: int, token: int, steps: Steps, number: int
) -> LargestStep:
    """One of the steps, with the heads and MLP of its block."""
    layer = int(steps.layer[number])
    logits, sources, mlp = heads_of(model, trace, layer, position, token)
    order = logits.argsort(descending=True)
    attention, other = float(steps.attention[number]), float(steps.mlp[number])
    return LargestStep(
        layer=layer,
        step=float(steps.step[number]),
        component="attention" if attention >= other else "mlp",
        attention=attention,
        mlp=other,
        heads=order.numpy(),
        head_logits=logits[order].numpy(),
        head_sources=sources[order].numpy(),
        mlp_logit=mlp,
    )
