"""Compare a patching sweep with one pass for each cell, and its estimate with plain passes.

    python -m benchmarks.sweep [MODEL] [--cells N] [--peer]

All times are of this machine in this run, so only their ratios can be compared. A state sweep over
all rows and positions is measured in batches. One pass for each cell is measured on N cells spread
over the sweep (60), each a whole pass with a hook that patches one state, and scaled to all cells.
The sweep does not run cells whose states are equal in both runs, so a second ratio compares the
time of one sequence. The estimate is compared with a forward and a backward pass of the prompt.

``--peer`` also runs TransformerLens's ``get_act_patch_resid_pre`` on the same prompts, weights and
cells, and compares the numbers. It is not a dependency: run this in the environment of ``make
bench-peers``, which compares other work too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import analysis
from analysis.contract.specs import Floats
from analysis.experiments import cells
from analysis.experiments.specs import Sweep
from analysis.model.handle import Model
from analysis.tracing.vectors import hook_component

MODEL = "smollm2-135m-instruct"
CLEAN = "When Mary and John went to the store today, John gave a new book to"
CORRUPTED = "When Mary and John went to the store today, Mary gave a new book to"
ANSWER, FOIL = " Mary", " John"
#: Row and position of each cell.
Cells = list[tuple[int, int]]
#: Repetitions of what takes less than a second; the median counts.
REPEAT = 5


def seconds(work: Callable[[], Any]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def medians(*works: Callable[[], Any]) -> list[float]:
    """The median of several calls of each, in turns, after one that does not count."""
    for work in works:
        work()
    spent = [[seconds(work) for work in works] for _ in range(REPEAT)]
    return [float(one) for one in np.median(spent, axis=0)]


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
    answer, foil = answer_and_foil(model)
    return float(logits[answer] - logits[foil])


def answer_and_foil(model: Model) -> tuple[int, int]:
    """The ids of the two tokens."""
    answer, foil = (
        model.tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in (ANSWER, FOIL)
    )
    return int(answer), int(foil)


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


def peer_sweep(model: Model, places: Cells) -> tuple[Floats, float]:
    """Logit differences of some cells by TransformerLens, which runs a pass for each; the seconds.

    Args:
        model: TransformerLens changes its modules.
        places: Row and position of each cell; the last row is not among them.
    """
    from pandas import DataFrame
    from transformer_lens import patching
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(
        MODEL, hf_model=model.hf, tokenizer=model.tokenizer, device=str(model.device)
    )
    clean, corrupted = (
        torch.tensor([analysis.trace(model, text).token_ids]) for text in (CLEAN, CORRUPTED)
    )
    answer, foil = answer_and_foil(model)

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logits[0, -1, answer] - logits[0, -1, foil]

    with torch.no_grad():
        _, cache = bridge.run_with_cache(clean)
        frame = DataFrame(places, columns=["layer", "pos"])
        started = time.perf_counter()
        found = patching.get_act_patch_resid_pre(
            bridge, corrupted, cache, metric, index_axis_names=None, index_df=frame
        )
    return found.float().numpy(), time.perf_counter() - started


def print_peer(name: str, sweep: Sweep, exact: float, cells: int) -> None:
    """Print the ratio of the times of one pass, and the largest difference of the numbers.

    Args:
        name: The model; it is loaded again.
        sweep: Measured.
        exact: Seconds that it took.
        cells: How many cells TransformerLens patches.
    """
    rows, positions = sweep.raw.shape
    spread = np.linspace(0, (rows - 1) * positions - 1, cells).astype(int).tolist()
    places = [divmod(place, positions) for place in spread]
    found, spent = peer_sweep(analysis.load_model(name), places)
    apart = max(
        abs(float(value) - float(sweep.raw[place]))
        for value, place in zip(found, places, strict=True)
    )
    theirs, ours = spent / len(places), exact / sweep.passes
    print(f"TransformerLens, get_act_patch_resid_pre: {spent:.1f} s, {len(places)} passes")
    print(f"a pass: {theirs:.3f} s there, {ours:.3f} s here")
    print(f"ratio: {theirs / ours:.1f}; a cell: {theirs / (exact / sweep.raw.size):.1f}")
    print(f"largest difference of the logit difference: {apart:.1e}")


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?", default=MODEL)
    parser.add_argument("--cells", type=int, default=60)
    parser.add_argument("--peer", action="store_true", help="also run TransformerLens's code")
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
    guess, plain = medians(
        lambda: swept(model, False), lambda: forward_and_backward(model, corrupted.token_ids)
    )
    print(f"estimate: {guess:.2f} s; one forward and backward pass: {plain:.2f} s")
    print(f"ratio: {guess / plain:.2f}")
    if chosen.peer:
        print_peer(chosen.model, sweep, exact, chosen.cells)


if __name__ == "__main__":
    main()
