"""Compare a patching sweep with one pass for each cell, and its estimate with plain passes.

    python -m benchmarks.sweep [MODEL] [--cells N]

All times are of this machine in this run, so only their ratios can be compared. A state sweep over
all rows and positions is measured in batches. One pass for each cell is measured on N cells spread
over the sweep (60), each a whole pass with a hook that patches one state, and scaled to all cells.
The sweep does not run cells whose states are equal in both runs, so a second ratio compares the
time of one sequence. The estimate is compared with a forward and a backward pass of the prompt.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import analysis
from analysis.experiments import cells
from analysis.experiments.specs import Sweep
from analysis.model.handle import Model
from analysis.tracing.vectors import hook_component

MODEL = "smollm2-135m-instruct"
CLEAN = "When Mary and John went to the store, John gave a book to"
CORRUPTED = "When Mary and John went to the store, Mary gave a book to"
ANSWER, FOIL = " Mary", " John"
#: Repetitions of what takes less than a second; the median counts.
REPEAT = 5


def seconds(work: Callable[[], Any]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def median(work: Callable[[], Any]) -> float:
    """The median of several calls, after one that does not count."""
    work()
    return float(np.median([seconds(work) for _ in range(REPEAT)]))


def swept(model: Model, exact: bool) -> Sweep:
    """The state sweep, measured or estimated."""
    return analysis.sweep(model, CLEAN, CORRUPTED, answer=ANSWER, foil=FOIL, exact=exact)


@torch.no_grad()
def one_pass(model: Model, ids: tuple[int, ...], row: int, pos: int, state: torch.Tensor) -> float:
    """The logit difference of a whole pass with one patched state."""

    def edit(states: torch.Tensor) -> torch.Tensor:
        changed = states.clone()
        changed[0, pos] = state
        return changed

    handles = hook_component(model, "row", row, edit, 1)
    try:
        logits = cells.last_logits(model, ids, 1)[0]
    finally:
        for handle in handles:
            handle.remove()
    tokens = [model.tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in (
        ANSWER, FOIL
    )]  # fmt: skip
    return float(logits[tokens[0]] - logits[tokens[1]])


def forward_and_backward(model: Model, ids: tuple[int, ...]) -> None:
    """One forward and one backward pass, down to the embeddings."""

    def start(states: torch.Tensor) -> torch.Tensor:
        return states.detach().requires_grad_().clone()

    handles = hook_component(model, "row", 0, start, 1)
    try:
        with torch.enable_grad():
            largest = cells.last_logits(model, ids, 1)[0].max()
            largest.backward()  # type: ignore[no-untyped-call]
    finally:
        for handle in handles:
            handle.remove()


def main() -> None:
    """Print both ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?", default=MODEL)
    parser.add_argument("--cells", type=int, default=60)
    chosen = parser.parse_args()
    model = analysis.load_model(chosen.model)
    clean, corrupted = (analysis.trace(model, text) for text in (CLEAN, CORRUPTED))
    sweep = swept(model, True)
    exact = seconds(lambda: swept(model, True))
    rows, positions = sweep.raw.shape
    places = np.linspace(0, rows * positions - 1, chosen.cells).astype(int)
    found, spent = [], 0.0
    for place in places.tolist():
        row, pos = divmod(place, positions)
        state = torch.from_numpy(clean.resid[row, pos]).to(model.device, model.dtype)
        started = time.perf_counter()
        value = one_pass(model, corrupted.token_ids, row, pos, state)
        spent += time.perf_counter() - started
        found.append(abs(value - float(sweep.raw[row, pos])))
    each = spent / len(places) * sweep.raw.size
    print(f"{model.info.name}: {rows} rows, {positions} positions, {sweep.raw.size} cells")
    print(f"one pass for each cell: {each:.1f} s ({len(places)} cells, scaled to all)")
    print(f"batched, from the patched row: {exact:.1f} s, {sweep.passes} sequences")
    print(f"ratio: {each / exact:.1f}; largest difference: {max(found):.1e}")
    alone, batched = each / sweep.raw.size, exact / sweep.passes
    print(f"a sequence: {alone:.3f} s alone, {batched:.3f} s in the sweep")
    print(f"ratio: {alone / batched:.1f}")
    guess = median(lambda: swept(model, False))
    plain = median(lambda: forward_and_backward(model, corrupted.token_ids))
    print(f"estimate: {guess:.2f} s; one forward and backward pass: {plain:.2f} s")
    print(f"ratio: {guess / plain:.2f}")


if __name__ == "__main__":
    main()
