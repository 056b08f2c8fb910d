"""What each reading of 64 tokens costs on the default model: one column first, then everything.

Run with ``python -m benchmarks.lens``. Prints seconds, the best of a few runs, and the CPU seconds
of that run; then the reports' sentences.
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
    """Seconds on the clock and of CPU, of the fastest run."""
    runs = []
    for _ in range(REPEATS):
        start, cpu = time.perf_counter(), time.process_time()
        work()
        runs.append((time.perf_counter() - start, time.process_time() - cpu))
    return min(runs)


def line(name: str, ask: Callable[..., Any]) -> None:
    """One line of the table; what this model can't answer says why."""
    try:
        column = timed(partial(ask, positions=[-1]))
        whole = timed(partial(ask, positions=None))
    except analysis.AnalysisError as error:
        print(f"{name:52} {error}")
        return
    print(f"{name:52} {column[0]:8.2f} s {whole[0]:8.2f} s {whole[1]:8.2f} s")


def readings(model: Model, trace: analysis.Trace) -> None:
    """Grids, colours and disagreement."""
    print(f"{'':52} {'column':>10} {'all':>10} {'CPU':>10}")
    for options in GRIDS:
        name = ", ".join(str(value) for value in options.values()) or "logit lens"
        line(name, partial(analysis.decode, model, trace, **options))
    for quantities in COLOURS:
        ask = partial(analysis.colours, model, trace, quantities=quantities)
        line(", ".join(quantities), ask)
    for decoders in (("output", "input", "linear"), ("output", "learned")):
        ask = partial(analysis.disagreement, model, trace, decoders)
        line(f"disagreement of {', '.join(decoders)}", ask)


def others(model: Model, trace: analysis.Trace) -> None:
    """Steps, emergence and reports, which have no column."""
    works: dict[str, Callable[[], Any]] = {
        "steps of one position": lambda: analysis.steps(model, trace),
        "largest steps of every position": lambda: analysis.largest_steps(model, trace),
        "emergence with causal commit, every position": lambda: analysis.emergence(model, trace),
        "similarity report": lambda: analysis.similarity_report(model, trace),
        "embedding report": lambda: analysis.embedding_report(model),
        "norm report": lambda: analysis.norm_report(model),
    }
    for name, work in works.items():
        seconds, cpu = timed(work)
        print(f"{name:52} {'':10} {seconds:8.2f} s {cpu:8.2f} s")


def main() -> None:
    """Print the table and the sentences."""
    model = analysis.load_model("smollm2-135m-instruct")
    trace = analysis.trace(model, " ".join(WORDS[:62]))
    print(f"{len(trace.tokens)} tokens, {torch.get_num_threads()} threads")
    readings(model, trace)
    others(model, trace)
    print(analysis.embedding_report(model).sentence)
    print(analysis.similarity_report(model, trace, norm="none").sentence)


if __name__ == "__main__":
    main()
