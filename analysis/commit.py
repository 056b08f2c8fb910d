"""The causal commit row: from where on a position no longer needs attention to keep its answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from analysis import progress
from analysis.capture import Trace
from analysis.interventions import Ablate, applied
from analysis.models.handle import Model
from analysis.results.base import Ints
from analysis.rows import staying_row

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
