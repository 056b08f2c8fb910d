"""Measure the views on a GPU beside the plain forward pass, and check the identities.

    python -m benchmarks.gpu [MODEL] [--tokens 64] [--dtype bfloat16] [--device cuda]

It prints, within eight minutes, the time of each view, its ratio to a plain forward pass, and the
peak memory of the device; then the identities of the model with their errors. No view is begun
after seven minutes. Without a GPU it says so and measures nothing; ``--device cpu`` measures the
CPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import analysis
from analysis.model.handle import Model

#: Seconds after which no view is begun.
LIMIT = 420.0
REPEATS = 3


def views(model: Model, ids: list[int]) -> dict[str, Callable[[], Any]]:
    """Return each view with its computation; the first one is the plain forward pass."""
    tokens = torch.tensor([ids], device=model.device)
    trace = analysis.trace(model, ids)
    other = [*ids[:-1], (ids[-1] + 1) % model.info.vocab]

    def plain() -> None:
        """Run the model as transformers does."""
        with torch.no_grad(), model.lock:
            model.hf(input_ids=tokens, use_cache=False)

    return {
        "plain pass": plain,
        "capture": lambda: analysis.trace(model, ids),
        "one more token": lambda: analysis.trace(model, [*ids, ids[0]], after=trace),
        "grid": lambda: analysis.decode(model, trace),
        "flow": lambda: analysis.flow(model, trace, method="proximity", threshold=0.05),
        "effect": lambda: analysis.flow(model, trace, method="effect", budget=300),
        "emergence": lambda: analysis.emergence(model, trace),
        "sweep": lambda: analysis.sweep(model, ids, other, metric="kl"),
    }


def measure(model: Model, compute: Callable[[], Any]) -> tuple[float, float]:
    """Return the least seconds of a few calls, and the peak GB of the device."""
    gpu = model.device.type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    least = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        compute()
        if gpu:
            torch.cuda.synchronize()
        least = min(least, time.perf_counter() - start)
    return least, torch.cuda.max_memory_allocated() / 1e9 if gpu else 0.0


def print_table(model: Model, ids: list[int], begun: float) -> None:
    """Print one line for each view."""
    base = 0.0
    for name, compute in views(model, ids).items():
        if time.perf_counter() - begun > LIMIT:
            print(f"{name:16} not measured: the time is up")
            continue
        try:
            seconds, peak = measure(model, compute)
        except analysis.AnalysisError as error:
            print(f"{name:16} {error}")
            continue
        base = base or seconds
        memory = f"{peak:8.2f} GB" if peak else f"{'-':>11}"
        print(f"{name:16} {1000 * seconds:9.1f} ms {seconds / base:9.2f} x {memory}", flush=True)


def print_identities(model: Model) -> bool:
    """Print each identity with its error, and return whether all hold."""
    ledger = model.check()
    for entry in ledger.entries:
        state = "holds" if entry.passed else "FAILS"
        print(f"identity {entry.number}: {entry.error:.1e} of {entry.tolerance:.0e}, {state}")
    return ledger.passed


def main(arguments: list[str] | None = None) -> int:
    """Print the tables, and return 1 if an identity fails, else 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--device", default="cuda")
    chosen = parser.parse_args(arguments)
    if chosen.device.startswith("cuda") and not torch.cuda.is_available():
        print("There is no GPU: nothing is measured. Use --device cpu to measure the CPU.")
        return 0
    begun = time.perf_counter()
    model = analysis.load_model(chosen.model, dtype=chosen.dtype, device=chosen.device)
    generator = torch.Generator().manual_seed(8)
    ids = torch.randint(0, model.info.vocab, (chosen.tokens,), generator=generator).tolist()
    print(f"{model.info.name}, {model.info.dtype}, {model.info.device}, {len(ids)} tokens")
    print_table(model, ids, begun)
    return 0 if print_identities(model) else 1


if __name__ == "__main__":
    sys.exit(main())
