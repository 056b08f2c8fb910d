"""Tokens' curves over the rows of the lens, and what made their largest steps."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from analysis.capture import Trace
from analysis.largest_step import describe, heads_of, largest, log_probs
from analysis.lens_math import Reference, RowStats, row_stats
from analysis.lens_specs import LargestStepSpec, StepsSpec
from analysis.models.handle import Model
from analysis.results import LargestSteps, Steps
from analysis.rows import first_row, staying_row
from analysis.specs import resolve_index
from analysis.tokens import check_ids, describe_tokens, vocabulary


@torch.no_grad()
def compute(model: Model, trace: Trace, spec: StepsSpec) -> Steps:
    """Probability, rank, entropy and KL at every row of one position, and the largest steps.

    The reading is the logit lens with the output decoder (nostalgebraist 2020). Rows of emergence
    are those of ``Emergence``: of tokens other than the model's own choice each may be "never".

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``.
        spec: Which position and tokens.

    Raises:
        SpecError: If the position does not exist.
        PromptError: If a token is not in the vocabulary.
    """
    size = len(trace.tokens)
    position = resolve_index("Position", spec.position, size)
    tokens = spec.tokens or (int(trace.logits[position].argmax()),)
    check_ids(tokens, int(model.readout.output_rows.shape[0]))
    stats, divergence = _rows(model, trace, position, tokens)
    logs = (stats.target_logits - stats.log_total[:, None]).cpu().numpy()
    probs, ranks = stats.target_probs.cpu().numpy(), stats.target_ranks.cpu().numpy()
    steps = largest(model, trace, np.full(len(tokens), position), np.array(tokens), logs)
    each = range(len(tokens))
    return Steps(
        position=position,
        rows=np.arange(len(logs)),
        tokens=describe_tokens(model.tokenizer, tokens),
        probs=probs,
        log_probs=logs,
        ranks=ranks,
        entropy=stats.entropy.cpu().numpy(),
        kl_to_final=divergence.cpu().numpy(),
        tau=spec.tau,
        first_top1=tuple(first_row(ranks[:, n] == 0) for n in each),
        emergence=tuple(staying_row(probs[:, n] >= spec.tau) for n in each),
        saturation=tuple(staying_row(ranks[:, n] == 0) for n in each),
        largest=tuple(describe(model, trace, position, tokens[n], steps, n) for n in each),
        actual=trace.token_ids[position + 1] if position + 1 < size else -1,
    )


def _rows(
    model: Model, trace: Trace, position: int, tokens: tuple[int, ...]
) -> tuple[RowStats, Tensor]:
    """What the lens says of some tokens at all rows, and its KL from the model's output."""
    readout = model.readout
    states = torch.from_numpy(np.ascontiguousarray(trace.resid[:, position]))
    logits = readout.logits(states.to(readout.device, readout.output_rows.dtype))
    wanted = torch.tensor(tokens, device=logits.device).expand(len(logits), -1)
    stats = row_stats(logits, 1, wanted)
    final = Reference.of(torch.from_numpy(trace.logits[position : position + 1]).to(logits.device))
    which = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    return stats, final.kl_to(logits, stats, which)


def at_every_position(model: Model, trace: Trace, spec: LargestStepSpec) -> LargestSteps:
    """The largest step of the model's own final token at every position.

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``.
        spec: Nothing to choose.

    Raises:
        CancelledError: If the caller's progress listener stops the work.
    """
    tokens = trace.logits.argmax(-1).astype(np.int64)
    count, size = trace.resid.shape[:2]
    flat = log_probs(model, trace.resid.reshape(count * size, -1), np.tile(tokens, count))
    positions = np.arange(size)
    steps = largest(model, trace, positions, tokens, flat.reshape(count, size))
    head, source = np.full(size, -1, np.int64), np.full(size, -1, np.int64)
    logit = np.full(size, np.nan, np.float32)
    by_attention = steps.attention >= steps.mlp
    for pos in sorted(np.flatnonzero(by_attention).tolist(), key=lambda at: int(steps.layer[at])):
        layer, token = int(steps.layer[pos]), int(tokens[pos])
        logits, sources, _ = heads_of(model, trace, layer, pos, token)
        if len(logits):
            head[pos] = int(logits.argmax())
            logit[pos], source[pos] = float(logits.max()), int(sources[head[pos]])
    return LargestSteps(
        tokens, steps.layer, steps.step, steps.attention, steps.mlp, head, logit, source,
        vocabulary(model.tokenizer, tokens.tolist()),
    )  # fmt: skip
