"""Compare grids with their matrix product, and `emergence` and flow graphs with a grid.

    python -m benchmarks.grid_limit [TOKENS [ROUNDS]]     # 64 tokens and 8 rounds unless given

It uses the default model on one thread. Each round runs everything once, so that other load on the
machine meets all of it. It prints the least CPU seconds, and the median over the rounds of the
ratios to the plain matrix product and to the grid of the same round.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch

import analysis
from benchmarks.page import WORDS

#: States and tokens in each product of the second line: the fastest sizes on the author's machine.
CHUNK, TOKENS = 256, 512
#: Flow graphs: method, and the options that limit its links.
FLOWS = [
    (method, limit)
    for method in ("norm", "attention")
    for limit in ({"threshold": 0.05}, {"threshold": 0.01}, {"budget": 300})
]


@torch.no_grad()
def product(states: torch.Tensor, matrix: torch.Tensor) -> None:
    """Decode all states at once, and drop the logits."""
    torch.nn.functional.linear(states, matrix)


@torch.no_grad()
def product_in_blocks(states: torch.Tensor, matrix: torch.Tensor) -> None:
    """Decode some states to some tokens at a time, and drop the logits."""
    for part in torch.split(states, CHUNK):
        for rows in torch.split(matrix, TOKENS):
            torch.mm(part, rows.T)


def computations(model: Any, trace: Any) -> dict[str, Callable[[], Any]]:
    """Name -> what is measured. The first is the plain matrix product."""
    states = torch.from_numpy(trace.resid).flatten(0, 1)
    matrix = model.readout.output_rows
    return {
        "matrix product": lambda: product(states, matrix),
        "matrix product in blocks": lambda: product_in_blocks(states, matrix),
        "grid": lambda: analysis.decode(model, trace),
        "grid with a target": lambda: analysis.decode(model, trace, target=0),
        "emergence": lambda: analysis.emergence(model, trace, causal=False),
        "emergence with causal commit": lambda: analysis.emergence(model, trace),
        **{
            f"{method} flow, {name} {least}": partial(
                analysis.flow, model, trace, method=method, **limit
            )
            for method, limit in FLOWS
            for name, least in limit.items()
        },
    }


def seconds(work: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """CPU seconds of each computation."""
    spent = {}
    for name, compute in work.items():
        start = time.process_time()
        compute()
        spent[name] = time.process_time() - start
    return spent


def main() -> None:
    """Print one line for each computation."""
    torch.set_num_threads(1)
    length, rounds = (*map(int, sys.argv[1:]), *(64, 8)[len(sys.argv) - 1 :])
    model = analysis.load_model("smollm2-135m-instruct")
    words = " ".join(WORDS * (1 + length // len(WORDS)))
    trace = analysis.trace(model, analysis.trace(model, words).token_ids[:length])
    work = computations(model, trace)
    found = [seconds(work) for _ in range(rounds)]
    cells = trace.resid.shape[0] * length
    print(f"{length} tokens, {cells} cells, one thread, {rounds} rounds")
    print(f"{'':36} {'CPU s':>8} {'/ product':>10} {'/ grid':>8}")
    for name in work:
        least = min(each[name] for each in found)
        ratios = (median(each[name] / each[base] for each in found) for base in (*work,)[:3:2])
        print(f"{name:36} {least:8.2f} {'{:10.2f} {:8.2f}'.format(*ratios)}")


if __name__ == "__main__":
    main()
