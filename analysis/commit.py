"""The causal commit row: from where on a position no longer needs attention to keep its answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from analysis import progress
from analysis.capture import Trace
from analysis.interventions import Ablate, applied
from analysis.models.handle import Model
from analysis.rows import staying_row

#: Tokens run at once: variants of a short prompt share a pass.
TOKENS_AT_ONCE = 1024


def causal_commit(model: Model, trace: Trace, positions: Sequence[int]) -> tuple[int | None, ...]:
    """First row r such that zeroing attention in all layers >= r' keeps the choice, r' >= r.

    For every position and row r', the attention outputs of layers r' and above are set to
    zero at that position alone; the model's choice there is compared with its own. The last
    row ablates nothing, so the model's own choice always commits.

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``, without interventions.
        positions: [n].

    Returns:
        [n] rows.

    Raises:
        CancelledError: If the caller's progress listener stops the work.
    """
    found = []
    for done, position in enumerate(positions):
        keeps = _keeps_choice(model, trace, position)
        found.append(staying_row(np.array([*keeps, True])))
        progress.step(done + 1, len(positions), "Causal commit")
    return tuple(found)


@torch.no_grad()
def _keeps_choice(model: Model, trace: Trace, position: int) -> list[bool]:
    """[row 0..L-1] whether the choice survives without attention from that row's layer on."""
    layers = model.info.layers
    ids = trace.token_ids[: position + 1]
    wanted = int(trace.logits[position].argmax())
    sets = [
        [Ablate("attention_output", layer, pos=position) for layer in range(row, layers)]
        for row in range(layers)
    ]
    size = max(TOKENS_AT_ONCE // len(ids), 1)
    keeps: list[bool] = []
    for start in range(0, layers, size):
        part = sets[start : start + size]
        tokens = torch.tensor([ids] * len(part), device=model.device)
        with applied(model, part, len(ids)):
            logits = model.hf(input_ids=tokens, use_cache=False, logits_to_keep=1).logits
        keeps.extend((logits[:, -1].argmax(-1) == wanted).tolist())
        progress.step(len(keeps), layers, f"Causal commit of position {position}")
    return keeps
