"""Compare grids with their matrix product, and `emergence` and flow graphs with a grid.

    python -m benchmarks.grid_limit [TOKENS]

It uses the default model on one thread, and prints CPU seconds: the least of a few runs, one of
each in turn, so that other load on the machine meets all of them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import analysis
from benchmarks.page import WORDS

REPEATS = 3
#: States in each product of the second line.
CHUNK = 128
#: Flow graphs: method, and share below which a link is not kept.
FLOWS = (("norm", 0.05), ("norm", 0.01), ("attention", 0.05), ("attention", 0.01))


@torch.no_grad()
def product(states: torch.Tensor, matrix: torch.Tensor, size: int) -> None:
    """Decode all states, some at a time, and drop the logits."""
    for part in torch.split(states, size):
        torch.nn.functional.linear(part, matrix)


def main() -> None:
    """Print one line for each computation."""
    torch.set_num_threads(1)
    length = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    model = analysis.load_model("smollm2-135m-instruct")
    words = " ".join(WORDS * (1 + length // len(WORDS)))
    trace = analysis.trace(model, analysis.trace(model, words).token_ids[:length])
    states = torch.from_numpy(trace.resid).flatten(0, 1)
    matrix = model.readout.output_rows
    work: dict[str, Callable[[], Any]] = {
        "matrix product, all states at once": lambda: product(states, matrix, len(states)),
        f"matrix product, {CHUNK} states at a time": lambda: product(states, matrix, CHUNK),
        "grid": lambda: analysis.decode(model, trace),
        "grid with a target": lambda: analysis.decode(model, trace, target=0),
        "emergence": lambda: analysis.emergence(model, trace, causal=False),
        "emergence with causal commit": lambda: analysis.emergence(model, trace),
        **{
            f"{method} flow, shares over {least}": partial(
                analysis.flow, model, trace, method=method, threshold=least
            )
            for method, least in FLOWS
        },
    }
    least = dict.fromkeys(work, float("inf"))
    for _ in range(REPEATS):
        for name, compute in work.items():
            start = time.process_time()
            compute()
            least[name] = min(least[name], time.process_time() - start)
    whole, grid = next(iter(least.values())), least["grid"]
    print(f"{length} tokens, {len(states)} cells, one thread")
    print(f"{'':44} {'CPU s':>8} {'/ product':>10} {'/ grid':>8}")
    for name, seconds in least.items():
        print(f"{name:44} {seconds:8.2f} {seconds / whole:10.2f} {seconds / grid:8.2f}")


if __name__ == "__main__":
    main()
