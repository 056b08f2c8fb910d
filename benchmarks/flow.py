"""Time and memory of a flow graph, beside the naive way at the sizes that it can reach.

Run with ``python -m benchmarks.flow [MODEL]``. Each line is a process of its own, one thread;
memory is the peak of its resident set above what it holds once the model is loaded, the run's
trace included ("capture" is that alone), sampled every millisecond. The naive way forms every
head's and source's vector of every node, as LLM Transparency Tool does (Meta 2024,
``contributions.py``), a layer at a time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import psutil
import torch

import analysis
from analysis.capture import Trace
from analysis.models.handle import Model
from analysis.parts import head_parts
from analysis.specs import FlowSpec
from analysis.techniques import flow

MODEL = "smollm2-135m-instruct"
SIZES = (16, 64, 256, 1024)
#: Beyond this the naive way takes minutes.
NAIVE_UP_TO = 256
PRUNED = {"top_k": 2, "per_head": False}
SPECS: dict[str, FlowSpec] = {
    "proximity": FlowSpec(**PRUNED),
    "proximity, budget 300": FlowSpec(budget=300, **PRUNED),
    "proximity, shares over 0.03": FlowSpec(threshold=0.03),
    "proximity, page (0.001 a head)": FlowSpec(threshold=0.001),
    "norm": FlowSpec(method="norm", **PRUNED),
    "attention": FlowSpec(method="attention", **PRUNED),
    "value_weighted": FlowSpec(method="value_weighted", **PRUNED),
    "rollout": FlowSpec(method="rollout", **PRUNED),
    "hidden_kl": FlowSpec(method="hidden_kl", **PRUNED),
    "signed": FlowSpec(method="signed", budget=300),
    "up from token 1": FlowSpec(1, 0, direction="up", budget=300, per_head=False),
}


class _Peak:
    bytes = 0


@contextmanager
def watching() -> Iterator[_Peak]:
    """Sample this process's resident memory while the block runs."""
    peak, done, process = _Peak(), threading.Event(), psutil.Process()

    def sample() -> None:
        while not done.wait(0.001):
            peak.bytes = max(peak.bytes, process.memory_info().rss)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        peak.bytes = max(peak.bytes, process.memory_info().rss)
        done.set()
        thread.join()


@torch.no_grad()
def naive(model: Model, trace: Trace) -> None:
    """Proximities of all parts of all nodes, every vector formed."""
    for layer in range(model.info.layers):
        parts = head_parts(model, trace, layer)
        mid = torch.from_numpy(trace.resid[layer] + trace.attn_out[layer])
        for query in range(len(trace.tokens)):
            whole, vectors = mid[query], parts.sources(query)
            size = whole.abs().sum()
            scores = (size - (vectors - whole).abs().sum(-1)).clamp_min(0.0)
            _ = scores / scores.sum()


def tokens(model: Model, size: int) -> tuple[int, ...]:
    """Seeded random ids: their attention is wider than a text's, so more carries mass."""
    generator = torch.Generator().manual_seed(7)
    return tuple(torch.randint(0, model.info.vocab, (size,), generator=generator).tolist())


def measured(name: str, model_name: str, size: int) -> dict[str, float]:
    """CPU seconds, and megabytes above the loaded model, of one computation."""
    model = analysis.load_model(model_name)
    ids = tokens(model, size)
    base = psutil.Process().memory_info().rss
    with watching() as peak:
        trace = analysis.trace(model, ids)
        work: Callable[[], object] = lambda: flow.compute(model, trace, SPECS[name])  # noqa: E731
        if name in ("naive", "capture"):
            work = lambda: naive(model, trace) if name == "naive" else None  # noqa: E731
        start = time.process_time()
        made = work()
        # The sampling thread's own time is in this: about 2 %.
        seconds = time.process_time() - start
    hidden = getattr(made, "hidden_share", float("nan"))
    return {"s": seconds, "mb": (peak.bytes - base) / 2**20, "hidden": float(np.float64(hidden))}


def apart(name: str, model: str, size: int) -> dict[str, float]:
    """``measured`` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.flow", "--one", name, model, str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print one line for each way and size; ratios are to the naive way in the same run."""
    if sys.argv[1:2] == ["--one"]:
        torch.set_num_threads(1)
        print(json.dumps(measured(sys.argv[2], sys.argv[3], int(sys.argv[4]))))
        return
    model = sys.argv[1] if len(sys.argv) > 1 else MODEL
    for size in SIZES:
        slow = apart("naive", model, size) if size <= NAIVE_UP_TO else None
        if slow is not None:
            print(f"{size:5d} tokens  {'naive':32s} {slow['s']:7.2f} s {slow['mb']:6.0f} MB")
        for name in ("capture", *SPECS):
            one = apart(name, model, size)
            known = slow is not None and name != "capture"
            ratio = f"{slow['s'] / max(one['s'], 1e-3):6.1f} x" if known else ""
            print(
                f"{size:5d} tokens  {name:32s} {one['s']:7.2f} s {one['mb']:6.0f} MB  "
                f"hidden {one['hidden']:6.1%}  {ratio}",
                flush=True,
            )


if __name__ == "__main__":
    main()
