"""Follow tokens through the rows of the logit lens, and find where a condition sets in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from analysis import progress
from analysis.capture import Trace
from analysis.decoders import Reader
from analysis.lens_math import row_stats
from analysis.models.handle import Model
from analysis.results.base import Floats, Ints

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
