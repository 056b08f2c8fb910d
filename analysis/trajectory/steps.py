"""A token's curve over the rows, the rows at which it emerges, its largest step, and its story."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from analysis.attribution.direct import LogitDirection, attribute_logit
from analysis.attribution.specs import Attribution
from analysis.contract import jobs
from analysis.contract.specs import OTHER_PARTS, Floats, Ints, resolve_index
from analysis.model.handle import Model
from analysis.model.stream import Block
from analysis.tracing.capture import Trace
from analysis.tracing.heads import has_heads, head_parts
from analysis.tracing.tokens import (
    check_ids,
    describe_token,
    describe_tokens,
    token_ids,
    vocabulary,
)
from analysis.tracing.vocabulary import Reference, Room, RowStats, decode_stats, row_stats
from analysis.trajectory.specs import (
    LargestStep,
    LargestSteps,
    LargestStepSpec,
    MaybeRow,
    Steps,
    StepsSpec,
    Story,
    StorySpec,
)

#: States decoded at once.
CHUNK = 256


@torch.no_grad()
def follow(
    model: Model, states: Floats, tokens: Ints, *, label: str = "Following tokens"
) -> tuple[Floats, Ints]:
    """Log-probability and rank of chosen tokens in each state, under the logit lens.

    Args:
        model: The model whose lens it is.
        states: [n, d_model].
        tokens: [n, m] the tokens followed in each.
        label: What the progress listener reads; empty: nothing is reported.

    Returns:
        log_probs [n, m] in nats and ranks [n, m] (0 is best, ties in the token's favour).

    Raises:
        CancelledError: If the caller's progress listener stops the work.
    """
    readout, room = model.readout, Room()
    log_probs = np.zeros(tokens.shape, np.float32)
    ranks = np.zeros(tokens.shape, np.int64)
    for start in range(0, len(states), CHUNK):
        part = slice(start, start + CHUNK)
        some = torch.from_numpy(np.ascontiguousarray(states[part]))
        normed = readout.normed(some.to(readout.device, readout.output_rows.dtype))
        wanted = torch.from_numpy(tokens[part]).to(readout.device)
        stats, _ = decode_stats(readout, normed, 1, wanted, room=room)
        log_probs[part] = (stats.target_logits - stats.log_total[:, None]).cpu().numpy()
        ranks[part] = stats.target_ranks.cpu().numpy()
        if label:
            jobs.step(start + len(some), len(states), label)
        jobs.pause()
    return log_probs, ranks


def first_row(holds: np.ndarray) -> MaybeRow:
    """First row where it holds, or None."""
    return int(holds.argmax()) if holds.any() else None


def staying_row(holds: np.ndarray) -> MaybeRow:
    """First row from which it holds at every later row, or None."""
    if not holds[-1]:
        return None
    misses = np.flatnonzero(~holds)
    return int(misses[-1]) + 1 if len(misses) else 0


def emergence_rows(probs: Floats, ranks: Ints, tau: float) -> dict[str, tuple[MaybeRow, ...]]:
    """The three rows of ``Emergence`` that a curve gives, for n tokens.

    Args:
        probs: [row, n] 0 to 1.
        ranks: [row, n] 0 is best.
        tau: The probability that "emergence" needs.

    Returns:
        "first_top1", "emergence" and "saturation", each [n].
    """
    first, likely = (ranks == 0).T, (probs >= tau).T
    return {
        "first_top1": tuple(first_row(holds) for holds in first),
        "emergence": tuple(staying_row(holds) for holds in likely),
        "saturation": tuple(staying_row(holds) for holds in first),
    }


@dataclass(frozen=True)
class _Rises:
    """The largest steps of n tokens.

    Attributes:
        layer: [n] the blocks. step, attention, mlp: [n] nats.
    """

    layer: Ints
    step: Floats
    attention: Floats
    mlp: Floats


def _largest_rises(
    model: Model, trace: Trace, positions: Ints, tokens: Ints, rows: Floats
) -> _Rises:
    """Of each token the block with the largest rise in probability, split in log-probability.

    The block is chosen by probability: ln p rises most out of the embedding, where it is lowest,
    but a rise from 1e-60 to 1e-20 decides nothing. A rise to a state that an intervention edited
    is not made by a block, so it does not count.

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
    found = np.diff(np.exp(rows.astype(np.float64)), axis=0)
    found[trace.edited_states[1:, positions]] = -np.inf
    if np.isinf(found.max(0)).any():
        trace.require_sums(slice(None), positions)
    layer: Ints = found.argmax(0)
    places = np.arange(len(layer))
    before, after = rows[layer, places], rows[layer + 1, places]
    pairs = list(zip(layer.tolist(), positions, strict=True))
    middle = np.stack([trace.middle(at)[position] for at, position in pairs])
    first = follow(model, middle, tokens[:, None])[0][:, 0] - before
    if model.info.parallel_blocks:
        state = np.stack([trace.kept(at)[position] for at, position in pairs])
        mlp = trace.mlp_out[layer, positions]
        alone = follow(model, state + mlp, tokens[:, None])[0][:, 0]
        first = (first + (after - alone)) / 2
    step = after - before
    return _Rises(layer, step, first, step - first)


@torch.no_grad()
def _direct_logits(
    model: Model, trace: Trace, layer: int, position: int, token: int
) -> tuple[Tensor, Tensor, float]:
    """What each head, and the MLP, of one layer adds directly to a token's logit.

    Returns:
        [head] logits, [head] the position that each takes the largest part of it from (both empty
        if the layer's attention can't be split into heads), and the MLP's logits; empty and NaN
        if logits are not linear in the last state.
    """
    if not model.readout.linear:
        return torch.zeros(0), torch.zeros(0, dtype=torch.long), float("nan")
    direction = LogitDirection(model, trace, position, token, None)
    mlp = float(direction.of(torch.from_numpy(trace.mlp_out[layer, position]), layer + 1))
    if not has_heads(model, layer):
        return torch.zeros(0), torch.zeros(0, dtype=torch.long), mlp
    parts = head_parts(model, trace, layer)
    sources = direction.of(parts.sources(position), layer + 1).argmax(-1)
    return direction.of(parts.at(position), layer + 1), sources, mlp


def _largest_step(
    model: Model, trace: Trace, position: int, token: int, rises: _Rises, number: int
) -> LargestStep:
    """One of the steps, with the heads and MLP of its block."""
    layer = int(rises.layer[number])
    logits, sources, mlp_logit = _direct_logits(model, trace, layer, position, token)
    order = logits.argsort(descending=True)
    attention, mlp = float(rises.attention[number]), float(rises.mlp[number])
    return LargestStep(
        layer=layer,
        step=float(rises.step[number]),
        component=_cause(model.stream.blocks[layer], attention, mlp),
        attention=attention,
        mlp=mlp,
        heads=order.numpy(),
        head_logits=logits[order].numpy(),
        head_sources=sources[order].numpy(),
        mlp_logit=mlp_logit,
    )


def _cause(block: Block, attention: float, mlp: float) -> str:
    """The part with the larger step, among those that the block has."""
    mixer = next((part for part in ("attention", "ssm", "whole_block") if block.writes(part)), "")
    if not mixer or (mlp > attention and block.writes("mlp")):
        return "mlp"
    return mixer


@torch.no_grad()
def compute(model: Model, trace: Trace, spec: StepsSpec) -> Steps:
    """Probability, rank, entropy and KL at every row of one position, and the largest steps.

    Rows are read by the logit lens with the output decoder (nostalgebraist 2020). Rows of emergence
    are those of ``Emergence``; of tokens other than the model's own choice each may be "never".

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``.
        spec: The position and tokens.

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
    rises = _largest_rises(model, trace, np.full(len(tokens), position), np.array(tokens), logs)
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
        **emergence_rows(probs, ranks, spec.tau),
        largest=tuple(
            _largest_step(model, trace, position, token, rises, number)
            for number, token in enumerate(tokens)
        ),
        actual=trace.token_ids[position + 1] if position + 1 < size else -1,
    )


def _rows(
    model: Model, trace: Trace, position: int, tokens: tuple[int, ...]
) -> tuple[RowStats, Tensor]:
    """The lens's statistics of some tokens at all rows, and its KL from the model's output."""
    trace.require_model(model)
    readout = model.readout
    states = torch.from_numpy(np.ascontiguousarray(trace.resid[:, position]))
    logits = readout.logits(states.to(readout.device, readout.output_rows.dtype))
    wanted = torch.tensor(tokens, device=logits.device).expand(len(logits), -1)
    stats = row_stats(logits, 1, wanted)
    final = Reference.of(torch.from_numpy(trace.logits[position : position + 1]).to(logits.device))
    which = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    return stats, final.kl_to(logits, stats, which)


def compute_all_positions(model: Model, trace: Trace, _spec: LargestStepSpec) -> LargestSteps:
    """The largest step of the model's own final token at every position.

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``.

    Raises:
        CancelledError: If the caller's progress listener stops the work.
    """
    trace.require_model(model)
    tokens = trace.logits.argmax(-1).astype(np.int64)
    count, size = trace.resid.shape[:2]
    wanted = np.tile(tokens, count)[:, None]
    flat, _ = follow(model, trace.resid.reshape(count * size, -1), wanted)
    rises = _largest_rises(model, trace, np.arange(size), tokens, flat.reshape(count, size))
    head, source = np.full(size, -1, np.int64), np.full(size, -1, np.int64)
    logit = np.full(size, np.nan, np.float32)
    by_attention = np.flatnonzero(rises.attention >= rises.mlp)
    for pos in sorted(by_attention.tolist(), key=lambda at: int(rises.layer[at])):
        layer, token = int(rises.layer[pos]), int(tokens[pos])
        logits, sources, _ = _direct_logits(model, trace, layer, pos, token)
        if len(logits):
            head[pos] = int(logits.argmax())
            logit[pos], source[pos] = float(logits.max()), int(sources[head[pos]])
    return LargestSteps(
        token_ids=tokens,
        layer=rises.layer,
        step=rises.step,
        attention=rises.attention,
        mlp=rises.mlp,
        head=head,
        head_logit=logit,
        source=source,
        vocabulary=vocabulary(model.tokenizer, tokens.tolist()),
    )


def compute_story(model: Model, trace: Trace, spec: StorySpec) -> Story:
    """How ``spec.token`` (the model's own choice unless given) emerges at a position.

    The component that adds most is the head or MLP with the largest part of the token's logit
    (direct logit attribution); a head's source is the position that its largest part comes from.

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``.
        spec: The position, token and threshold.

    Raises:
        SpecError: If the position does not exist.
    """
    position = resolve_index("Position", spec.position, len(trace.tokens))
    token = spec.token if spec.token is not None else int(trace.logits[position].argmax())
    attribution = None
    if model.readout.linear and model.info.split_heads:
        attribution = attribute_logit(model, trace, position, token, None)
    states = trace.resid[:, position]
    log_probs, ranks = follow(model, states, np.full((len(states), 1), token, np.int64))
    probs = np.exp(log_probs)
    rows = emergence_rows(probs, ranks, spec.tau)
    part, layer, head, logit = (
        ("", 0, None, 0.0) if attribution is None else _largest_part(attribution)
    )
    source = None
    if head is not None:
        _, sources, _ = _direct_logits(model, trace, layer, position, token)
        source = int(sources[head]) if len(sources) else None
    return Story(
        position=position,
        token=describe_token(model.tokenizer, token),
        prob=float(probs[-1, 0]),
        **{name: found[0] for name, found in rows.items()},
        step_layer=layer,
        step_head=head,
        step_logit=logit,
        step_source=source,
        attribution=attribution,
        step_part=part,
    )


def _largest_part(attribution: Attribution) -> tuple[str, int, int | None, float]:
    """Part, layer, head (None if it is no head) and logits of the component that adds most."""
    parts = [part for part in attribution.parts if part.kind in ("head", "mlp", *OTHER_PARTS)]
    if not parts:  # the last state itself was patched
        return "", 0, None, 0.0
    best = max(parts, key=lambda part: part.logit)
    return best.kind, best.layer or 0, best.head, best.logit


def steps(
    model: Model,
    trace: Trace,
    position: int = -1,
    tokens: int | Sequence[int] | None = None,
    *,
    tau: float = 0.5,
) -> Steps:
    """How tokens emerge at one position: curves over the rows, and their largest steps.

    Args:
        model: From ``load_model``.
        trace: From ``trace``.
        position: The position.
        tokens: Token ids; the model's own top token unless given.
        tau: The probability that "emergence" needs.

    Raises:
        SpecError: If the position does not exist or tau is not a probability.
        PromptError: If a token is not in the vocabulary.
    """
    return compute(model, trace, StepsSpec(position, token_ids(model.tokenizer, tokens), tau))


def largest_steps(model: Model, trace: Trace) -> LargestSteps:
    """At every position: what made the largest step of the model's own final token.

    Args:
        model: From ``load_model``.
        trace: From ``trace``.
    """
    return compute_all_positions(model, trace, LargestStepSpec())
