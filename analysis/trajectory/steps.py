"""A token's curve over the rows, and which component made its largest step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from analysis.attribution.direct import LogitDirection
from analysis.contract import progress
from analysis.contract.results import Floats, Ints
from analysis.contract.specs import as_tuple, resolve_index
from analysis.model.handle import Model
from analysis.tracing.capture import Trace
from analysis.tracing.heads import has_heads, head_parts
from analysis.tracing.tokens import check_ids, describe_tokens, vocabulary
from analysis.tracing.vocabulary import Reference, RowStats, row_stats
from analysis.trajectory.emergence import first_row, staying_row
from analysis.trajectory.specs import LargestStep, LargestSteps, LargestStepSpec, StepsSpec
from analysis.trajectory.specs import Steps as Steps_of_specs

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


@torch.no_grad()
def compute(model: Model, trace: Trace, spec: StepsSpec) -> Steps_of_specs:
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
    return Steps_of_specs(
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


def steps(
    model: Model,
    trace: Trace,
    position: int = -1,
    tokens: int | Sequence[int] | None = None,
    *,
    tau: float = 0.5,
) -> Steps_of_specs:
    """How tokens come about at one position: curves over the rows, and their largest steps.

    Args:
        model: From ``load_model``.
        trace: From ``trace``.
        position: Where.
        tokens: Token ids; the model's own top token unless given.
        tau: The probability that ``emergence`` asks for.

    Raises:
        SpecError: If the position does not exist or tau is no probability.
        PromptError: If a token is not in the vocabulary.
    """
    return compute(model, trace, StepsSpec(position, as_tuple(tokens), tau))


def largest_steps(model: Model, trace: Trace) -> LargestSteps:
    """At every position: what made the largest step of the model's own final token.

    Args:
        model: From ``load_model``.
        trace: From ``trace``.
    """
    return at_every_position(model, trace, LargestStepSpec())
