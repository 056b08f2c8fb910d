"""Measure the time of each quantity of 64 tokens: one column, then the whole grid.

    python -m benchmarks.lens

It uses the default model. It prints the seconds of the fastest of a few runs, the CPU seconds of
that run, and then the sentences of the reports.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import analysis
from analysis.model.handle import Model
from benchmarks.page import WORDS

REPEATS = 2
GRIDS: tuple[dict[str, Any], ...] = (
    {},
    {"decoder": "linear"},
    {"decoder": "learned"},
    {"norm": "unit"},
    {"component": "mlp_output"},
    {"component": "block_increment"},
    {"component": "head_output", "head": 3},
    {"component": "source_output", "head": 3, "source": 0},
    {"similarity": "cosine"},
    {"similarity": "euclidean"},
    {"candidates": "subtraction"},
    {"candidates": "matching_pursuit"},
)
COLOURS = (
    ("state_norm", "cosine_before"),
    ("cross_entropy", "rank_change"),
    ("norm", "proximity", "hidden_kl"),
    ("kl",),
)


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Return the wall seconds and CPU seconds of the fastest run."""
    runs = []
    for _ in range(REPEATS):
        start, cpu = time.perf_counter(), time.process_time()
        work()
        runs.append((time.perf_counter() - start, time.process_time() - cpu))
    return min(runs)


def print_line(name: str, compute: Callable[..., Any]) -> None:
    """Print one line of the table, or the reason why the model has no result."""
    try:
        column = timed(partial(compute, positions=[-1]))
        whole = timed(partial(compute, positions=None))
    except analysis.AnalysisError as error:
        print(f"{name:52} {error}")
        return
    print(f"{name:52} {column[0]:8.2f} s {whole[0]:8.2f} s {whole[1]:8.2f} s")


def measure_grids(model: Model, trace: analysis.Trace) -> None:
    """Measure grids, colours and disagreement."""
    print(f"{'':52} {'column':>10} {'all':>10} {'CPU':>10}")
    for options in GRIDS:
        name = ", ".join(str(value) for value in options.values()) or "logit lens"
        print_line(name, partial(analysis.decode, model, trace, **options))
    for quantities in COLOURS:
        name = ", ".join(quantities)
        print_line(name, partial(analysis.colours, model, trace, quantities=quantities))
    for decoders in (("output", "input", "linear"), ("output", "learned")):
        name = f"disagreement of {', '.join(decoders)}"
        print_line(name, partial(analysis.disagreement, model, trace, decoders))


def measure_whole(model: Model, trace: analysis.Trace) -> None:
    """Measure steps, emergence and reports, which cannot be limited to one column."""
    computations: dict[str, Callable[[], Any]] = {
        "steps of one position": lambda: analysis.steps(model, trace),
        "largest steps of every position": lambda: analysis.largest_steps(model, trace),
        "emergence with causal commit, every position": lambda: analysis.emergence(model, trace),
        "similarity report": lambda: analysis.similarity_report(model, trace),
        "embedding report": lambda: analysis.embedding_report(model),
        "norm report": lambda: analysis.norm_report(model),
    }
    for name, work in computations.items():
        seconds, cpu = timed(work)
        print(f"{name:52} {'':10} {seconds:8.2f} s {cpu:8.2f} s")


def main() -> None:
    """Print the table and the sentences."""
    model = analysis.load_model("smollm2-135m-instruct")
    trace = analysis.trace(model, " ".join(WORDS[:62]))
    print(f"{len(trace.tokens)} tokens, {torch.get_num_threads()} threads")
    measure_grids(model, trace)
    measure_whole(model, trace)
    print(analysis.embedding_report(model).sentence)
    print(analysis.similarity_report(model, trace, norm="none").sentence)


if __name__ == "__main__":
    main()
