"""When a token emerges: four measures over the rows, the causal commit row among them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from analysis.contract import jobs
from analysis.contract.specs import Ints
from analysis.errors import SpecError
from analysis.model.handle import Model
from analysis.tracing.capture import Trace
from analysis.tracing.intervention_hooks import applied
from analysis.tracing.interventions import Ablate
from analysis.trajectory.specs import Emergence, EmergenceSpec, MaybeRow
from analysis.trajectory.steps import emergence_rows, follow, staying_row

#: Tokens in one forward pass: variants of a prompt share it, and their logits take the memory.
MAX_TOKENS = 1024


def causal_commit(model: Model, trace: Trace, positions: Sequence[int]) -> tuple[MaybeRow, ...]:
    """First row r such that, for every r' >= r, zeroing attention in layers >= r' keeps the choice.

    For every position and row r', the attention outputs of layers r' and above are set to
    zero at that position; the model's choice there is compared with its own. The last row
    ablates nothing, so the model's own choice always commits.

    One pass serves all positions. Attention is the only way from one position to another: if its
    output is zero everywhere from layer r' on, each position goes on as if it were zeroed there
    alone.

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``, without interventions.
        positions: [n].

    Returns:
        [n] rows.

    Raises:
        CancelledError: If the caller's progress listener stops the work.
    """
    where = np.array(list(positions), np.int64)
    if not len(where):
        return ()
    keeps = _keeps_choice(model, trace, where)
    return tuple(staying_row(column) for column in keeps.T)


@torch.no_grad()
def _keeps_choice(model: Model, trace: Trace, positions: Ints) -> NDArray[np.bool_]:
    """[row 0..L, n] whether choices survive without attention from that row's layer on."""
    layers = model.info.layers
    ids = trace.token_ids[: int(positions.max()) + 1]
    wanted = trace.logits[positions].argmax(-1)
    mixers = [
        [part for part in ("attention", "ssm") if block.of(part)] for block in model.stream.blocks
    ]
    kept = torch.from_numpy(positions)  # an index on the CPU works with states on any device
    sets = [
        [Ablate(f"{part}_output", layer) for layer in range(row, layers) for part in mixers[layer]]
        for row in range(layers)
    ]
    size = max(MAX_TOKENS // len(ids), 1)
    keeps = np.ones((layers + 1, len(positions)), bool)
    for start in range(0, layers, size):
        part = sets[start : start + size]
        tokens = torch.tensor([ids] * len(part), device=model.device)
        with applied(model, part, len(ids)):
            logits = model.hf(input_ids=tokens, use_cache=False, logits_to_keep=kept).logits
        keeps[start : start + len(part)] = logits.argmax(-1).cpu().numpy() == wanted
        jobs.step(start + len(part), layers, "Causal commit")
        jobs.pause()
    return keeps


def compute(model: Model, trace: Trace, spec: EmergenceSpec) -> Emergence:
    """The rows at which the model's own final choice emerges at every position.

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``.
        spec: The threshold, and whether the causal commit row is measured.

    Raises:
        SpecError: If the causal commit row of a trace with interventions is wanted.
        CancelledError: If the caller's progress listener stops the work.
    """
    trace.require_model(model)
    if spec.causal and trace.interventions:
        raise SpecError(
            "The causal commit row is measured on a run without interventions.",
            "Trace the prompt without interventions.",
        )
    tokens = trace.logits.argmax(-1).astype(np.int64)
    rows, size = trace.resid.shape[:2]
    wanted = np.tile(tokens, rows)[:, None]
    log_probs, ranks = follow(model, trace.resid.reshape(rows * size, -1), wanted)
    probs, ranks = np.exp(log_probs).reshape(rows, size), ranks.reshape(rows, size)
    return Emergence(
        token_ids=tokens,
        tau=spec.tau,
        **emergence_rows(probs, ranks, spec.tau),
        causal_commit=causal_commit(model, trace, range(size)) if spec.causal else None,
        probs=probs,
        ranks=ranks,
    )


def emergence(model: Model, trace: Trace, tau: float = 0.5, *, causal: bool = True) -> Emergence:
    """Per position, the rows at which the model's final choice emerges.

    Args:
        model: From ``load_model``.
        trace: From ``trace``, without interventions.
        tau: The probability that "emergence" needs.
        causal: Whether to measure the causal commit row; one forward pass for each row.

    Raises:
        SpecError: If tau is not a probability, or the trace has interventions.
    """
    return compute(model, trace, EmergenceSpec(tau, causal))
