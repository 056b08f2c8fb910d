"""Measure the time and memory of a flow graph, and compare them with the naive method.

    python -m benchmarks.flow [MODEL] [--quick]    # --quick: proximity and norm only
    python -m benchmarks.flow [MODEL] --effect     # the default graph of the page, beside one pass

Each line is measured in its own process with one thread. The time is the CPU time of the graph
alone, without the forward pass. Effects are also given in forward passes of the same process. The
memory is the process's peak above its size after the model is loaded and every weight is read. It
includes the trace ("capture" is the trace alone: states, patterns and logits; the patterns grow
with the square of the length).

The naive method computes the vectors of every head and source for all positions of a layer at
once, and the shares of every node, as LLM Transparency Tool does (Meta 2024,
``contributions.py``). If its array is larger than the free memory, the line says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
import torch

import analysis
from analysis.flow_graph import graph
from analysis.flow_graph.specs import FlowSpec
from analysis.model.handle import Model
from analysis.tracing.capture import Trace
from analysis.tracing.heads import head_parts
from benchmarks.memory import peak, reset_peak, resident, touch

MODEL = "smollm2-135m-instruct"
SIZES = (16, 64, 256, 1024)
#: Arrays of the full size that the naive method holds at once.
NAIVE_COPIES = 3
#: With more tokens the naive method takes many minutes.
NAIVE_UP_TO = 256
PRUNED: dict[str, Any] = {"top_k": 2, "per_head": False}
#: As the page draws them first, as it draws them then, and every link of each head.
EFFECTS: dict[str, FlowSpec] = {
    "effect": FlowSpec(method="effect", per_head=False, budget=4000),
    "effect, measured": FlowSpec(method="effect", per_head=False, budget=4000, exact=True),
    "effect, every link": FlowSpec(method="effect"),
}
#: With more tokens the cuts take minutes, and the page does not make them.
MEASURED_UP_TO = 64
SPECS: dict[str, FlowSpec] = {
    "proximity": FlowSpec(method="proximity", **PRUNED),
    "norm": FlowSpec(method="norm", **PRUNED),
    "proximity, budget 300": FlowSpec(method="proximity", budget=300, **PRUNED),
    "proximity, shares over 0.03": FlowSpec(method="proximity", threshold=0.03),
    "proximity, page (0.001 a head)": FlowSpec(method="proximity", threshold=0.001),
    "attention": FlowSpec(method="attention", **PRUNED),
    "value_weighted": FlowSpec(method="value_weighted", **PRUNED),
    "rollout": FlowSpec(method="rollout", **PRUNED),
    "hidden_kl": FlowSpec(method="hidden_kl", **PRUNED),
    "signed": FlowSpec(method="signed", budget=300),
    "up from token 1": FlowSpec(1, 0, direction="up", budget=300, per_head=False),
}
QUICK = ("proximity", "norm")


@torch.no_grad()
def naive(model: Model, trace: Trace) -> None:
    """Compute the proximities of all parts of all nodes from every vector of a layer."""
    for layer in range(model.info.layers):
        parts = head_parts(model, trace, layer)
        mid = torch.from_numpy(trace.resid[layer] + trace.attn_out[layer])
        vectors = torch.einsum("hqk,hkd->qhkd", parts.pattern, parts.moved)
        whole = mid[:, None, None]
        scores = (mid.abs().sum(-1)[:, None, None] - (vectors - whole).abs().sum(-1)).clamp_min(0.0)
        _ = scores / scores.sum((1, 2), keepdim=True)


@torch.no_grad()
def forward(model: Model, ids: tuple[int, ...]) -> None:
    """Run the model once, as it is."""
    model.hf(input_ids=torch.tensor([ids]), use_cache=False, logits_to_keep=1)


def naive_bytes(model: Model, size: int) -> int:
    """Return the bytes that ``naive`` holds at once."""
    return NAIVE_COPIES * 4 * model.info.heads * size * size * model.info.d_model


def tokens(model: Model, size: int) -> tuple[int, ...]:
    """Return seeded random ids. Their attention is wider than in text, so more links carry mass."""
    generator = torch.Generator().manual_seed(7)
    return tuple(torch.randint(0, model.info.vocab, (size,), generator=generator).tolist())


def measure(name: str, model_name: str, size: int) -> dict[str, float]:
    """Return the CPU seconds of one computation, and its megabytes above the loaded model."""
    model = analysis.load_model(model_name)
    if name == "naive" and (size > NAIVE_UP_TO or not _fits(naive_bytes(model, size))):
        free = psutil.virtual_memory().available
        return {"needs": naive_bytes(model, size) / 2**30, "free": free / 2**30}
    ids = tokens(model, size)
    touch(model)
    reset_peak()
    base = resident()
    trace = analysis.trace(model, ids)
    specs = {**SPECS, **EFFECTS}
    computations: dict[str, Callable[[], object]] = {
        "naive": lambda: naive(model, trace),
        "capture": lambda: None,
        "forward": lambda: forward(model, ids),
    }
    compute = computations.get(name, lambda: graph.compute(model, trace, specs[name]))
    result, seconds = timed(compute)
    most = peak()
    hidden = getattr(result, "hidden_share", float("nan"))
    found = {"s": seconds, "mb": (most - base) / 2**20, "hidden": float(np.float64(hidden))}
    if name in EFFECTS:  # beside a forward pass of the same process, both after a first time
        passes = [timed(computations["forward"])[1] for _ in range(3)]
        again = seconds if EFFECTS[name].exact else timed(compute)[1]
        found |= {"s": again, "passes": again / min(passes)}
    return found


def timed(compute: Callable[[], object]) -> tuple[object, float]:
    """Return a result and the CPU seconds that it took."""
    start = time.process_time()
    result = compute()
    return result, time.process_time() - start


def _fits(size: int) -> bool:
    return bool(size < 0.8 * psutil.virtual_memory().available)


def measure_in_process(name: str, model: str, size: int) -> dict[str, float]:
    """Run ``measure`` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.flow", "--one", name, model, str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def line(name: str, size: int, one: dict[str, float], slow: dict[str, float]) -> str:
    """Format one line of the table; the ratio is to the naive method in the same run."""
    start = f"{size:5d} tokens  {name:32s}"
    if "needs" in one:
        return (
            f"{start} not run: it needs {one['needs']:.1f} GB, {one['free']:.1f} GB are free;"
            " its time grows with the square of the length"
        )
    text = f"{start} {one['s']:7.2f} s {one['mb']:6.0f} MB"
    if name in ("naive", "capture", "forward"):
        return text
    if name in EFFECTS:
        return f"{text}  hidden {one['hidden']:6.1%}  {one['passes']:6.1f} forward passes"
    ratio = f"{slow['s'] / max(one['s'], 1e-3):6.1f} x" if "s" in slow else ""
    return f"{text}  hidden {one['hidden']:6.1%}  {ratio}"


def effects(model: str) -> None:
    """Print what the default graph costs beside one forward pass and the trace alone."""
    for size in SIZES[:-1]:
        for name in ("capture", "forward", *EFFECTS):
            if name == "effect, measured" and size > MEASURED_UP_TO:
                continue
            print(line(name, size, measure_in_process(name, model, size), {}), flush=True)


def main() -> None:
    """Print one line for each method and number of tokens."""
    if sys.argv[1:2] == ["--one"]:
        torch.set_num_threads(1)
        print(json.dumps(measure(sys.argv[2], sys.argv[3], int(sys.argv[4]))))
        return
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    model = words[0] if words else MODEL
    if "--effect" in sys.argv:
        effects(model)
        return
    names = QUICK if "--quick" in sys.argv else tuple(SPECS)
    for size in SIZES:
        slow: dict[str, float] = {}
        for name in ("naive", "capture", *names):
            one = measure_in_process(name, model, size)
            slow = one if name == "naive" else slow
            print(line(name, size, one, slow), flush=True)


if __name__ == "__main__":
    main()
