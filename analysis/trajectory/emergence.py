"""When a token emerges: four measures over the rows, the causal commit row among them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from analysis.contract import progress
from analysis.contract.results import Floats, Ints
from analysis.errors import SpecError
from analysis.lens.decoders import Reader
from analysis.model.handle import Model
from analysis.tracing.capture import Trace
from analysis.tracing.intervention_hooks import applied
from analysis.tracing.interventions import Ablate
from analysis.tracing.vocabulary import row_stats
from analysis.trajectory.specs import Emergence, EmergenceSpec

CHUNK = 128


@torch.no_grad()
def follow(
    model: Model, trace: Trace, tokens: Ints, positions: Sequence[int]
) -> tuple[Floats, Ints]:
    """Probability and rank of one token per position, over all rows of the logit lens.

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``.
        tokens: [n] the token followed at each of the positions.
        positions: [n].

    Returns:
        probs [row, n] (0 to 1) and ranks [row, n] (0 is best).
    """
    readout = model.readout
    rows, where = trace.resid.shape[0], np.asarray(list(positions))
    probs = np.zeros((rows, len(where)), np.float32)
    ranks = np.zeros((rows, len(where)), np.int64)
    cells = [(row, place) for row in range(rows) for place in range(len(where))]
    for start in range(0, len(cells), CHUNK):
        part = np.array(cells[start : start + CHUNK])
        states = torch.from_numpy(trace.resid[part[:, 0], where[part[:, 1]]])
        states = states.to(readout.device, readout.output_rows.dtype)
        wanted = torch.from_numpy(np.asarray(tokens)[part[:, 1]])[:, None].to(readout.device)
        stats = row_stats(Reader(readout, 1.0).logits(readout.normed(states)), 1, wanted)
        probs[part[:, 0], part[:, 1]] = stats.target_probs[:, 0].cpu().numpy()
        ranks[part[:, 0], part[:, 1]] = stats.target_ranks[:, 0].cpu().numpy()
        progress.step(start + len(part), len(cells), "Following tokens")
        progress.pause()
    return probs, ranks


def first_row(holds: np.ndarray) -> int | None:
    """First row where it holds, or None."""
    return int(holds.argmax()) if holds.any() else None


def staying_row(holds: np.ndarray) -> int | None:
    """First row from which it holds at every later row, or None."""
    if not holds[-1]:
        return None
    misses = np.flatnonzero(~holds)
    return int(misses[-1]) + 1 if len(misses) else 0


#: Tokens run at once: variants of a prompt share a pass; their logits are the memory it takes.
TOKENS_AT_ONCE = 1024


def causal_commit(model: Model, trace: Trace, positions: Sequence[int]) -> tuple[int | None, ...]:
    """First row r such that zeroing attention in all layers >= r' keeps the choice, r' >= r.

    For every position and row r', the attention outputs of layers r' and above are set to
    zero at that position; the model's choice there is compared with its own. The last row
    ablates nothing, so the model's own choice always commits.

    One pass serves all positions: attention is the only way from one position to another, so with
    its output zeroed from layer r' on everywhere, each position goes on as if it were zeroed there
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
    kept = torch.from_numpy(positions)  # an index on the CPU serves states on any device
    sets = [
        [Ablate("attention_output", layer) for layer in range(row, layers)] for row in range(layers)
    ]
    size = max(TOKENS_AT_ONCE // len(ids), 1)
    keeps = np.ones((layers + 1, len(positions)), bool)
    for start in range(0, layers, size):
        part = sets[start : start + size]
        tokens = torch.tensor([ids] * len(part), device=model.device)
        with applied(model, part, len(ids)):
            logits = model.hf(input_ids=tokens, use_cache=False, logits_to_keep=kept).logits
        keeps[start : start + len(part)] = logits.argmax(-1).cpu().numpy() == wanted
        progress.step(start + len(part), layers, "Causal commit")
        progress.pause()
    return keeps


def compute(model: Model, trace: Trace, spec: EmergenceSpec) -> Emergence:
    """The rows at which the model's own final choice emerges at every position.

    Raises:
        CancelledError: If the caller's progress listener stops the work.
    """
    tokens = trace.logits.argmax(-1).astype(np.int64)
    probs, ranks = follow(model, trace, tokens, range(len(tokens)))
    return Emergence(
        tokens,
        spec.tau,
        tuple(first_row(ranks[:, i] == 0) for i in range(len(tokens))),
        tuple(staying_row(probs[:, i] >= spec.tau) for i in range(len(tokens))),
        tuple(staying_row(ranks[:, i] == 0) for i in range(len(tokens))),
        causal_commit(model, trace, range(len(tokens))) if spec.causal else None,
        probs,
        ranks,
    )


def emergence(model: Model, trace: Trace, tau: float = 0.5, *, causal: bool = True) -> Emergence:
    """Per position, the rows at which the model's final choice emerges.

    Args:
        model: From ``load_model``.
        trace: From ``trace``, without interventions.
        tau: The probability that ``emergence`` asks for.
        causal: Whether to measure the causal commit row, at one pass a row and position.

    Raises:
        SpecError: If tau is no probability, or the trace was intervened on.
    """
    if causal and trace.interventions:
        raise SpecError(
            "The causal commit row is measured on an unchanged run.", "Trace without interventions."
        )
    return compute(model, trace, EmergenceSpec(tau, causal))
