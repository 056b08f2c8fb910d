"""Compare the estimated memory of a trace with its measured peak, in a fresh process for each.

python -m benchmarks.trace_memory [TOKENS ...]      # 256, 512 and 1024 unless given
python -m benchmarks.trace_memory --long [TOKENS [METHOD ...]]   # from trace to flow

The second command takes 4,096 tokens and the methods of ``FLOWS`` unless given. It keeps patterns
in 16 bits on disk. It prints the memory of the process without the pages of mapped files, and says
of each view whether that is within 4 GB.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import analysis
from analysis.model import catalog
from analysis.model.handle import Model
from analysis.tracing import storage
from benchmarks import memory

STORES: tuple[dict[str, Any], ...] = (
    {},
    {"pattern_dtype": "float16"},
    {"pattern_layers": ()},
    {"patterns_on_disk": True},
)
#: A long prompt is to need no more, from trace to flow.
MOST_BYTES = 4e9
#: Positions of the page's window of a long prompt.
WINDOW = 64
#: Flow graphs of a long prompt: method, and its limit of links.
FLOWS: dict[str, dict[str, Any]] = {
    "proximity": {"threshold": 0.05},
    "norm": {"threshold": 0.01},
    "attention": {"threshold": 0.01},
    "effect": {"budget": 300},
}


def measure(length: int, options: dict[str, Any]) -> str:
    """Return one line about a trace of the default model. Call it in a fresh process."""
    model = analysis.load_model(catalog.DEFAULT.name)
    ids = [token % 1000 + 100 for token in range(length)]
    analysis.trace(model, ids[:8])
    before = memory.resident()
    memory.reset_peak()
    store = storage.PatternStore(
        str(options.get("pattern_dtype", "float32")),
        options.get("pattern_layers"),
        bool(options.get("patterns_on_disk")),
    )
    estimate = storage.bytes_needed(model, length, store)
    states = analysis.trace(model, ids, **options)
    grown = memory.peak() - before
    return (
        f"{length} tokens {options or ''}: estimate {estimate / 1e9:.2f} GB, process "
        f"+{grown / 1e9:.2f} GB, kept {states.nbytes / 1e9:.2f} GB"
    )


def flow(model: Model, kept: list[analysis.Trace], method: str, options: dict[str, Any]) -> None:
    """Draw the flow graph of the trace that was kept."""
    analysis.flow(model, kept[0], method=method, **options)


def line(work: Callable[[], object]) -> str:
    """Return the memory and time of a view, or why it was refused."""
    refused: list[str] = []

    def guarded() -> None:
        try:
            work()
        except analysis.AnalysisError as error:
            refused.append(f"; refused: {error}")

    memory.trim()
    start = time.process_time()
    own = memory.own_peak(guarded)
    seconds = time.process_time() - start
    within = "within" if own <= MOST_BYTES else "ABOVE"
    return (
        f"{own / 1e9:6.2f} GB, {within} {MOST_BYTES / 1e9:.0f} GB; {seconds:8.1f} CPU s"
        f"{''.join(refused)}"
    )


def measure_long(length: int, methods: tuple[str, ...]) -> None:
    """Print one line for each view of a long prompt, on one thread."""
    torch.set_num_threads(1)
    model = analysis.load_model(catalog.DEFAULT.name)
    ids = torch.randint(0, model.info.vocab, (length,), generator=torch.Generator().manual_seed(7))
    kept: list[analysis.Trace] = []
    options: dict[str, Any] = {"pattern_dtype": "float16", "patterns_on_disk": True}
    store = storage.PatternStore("float16", on_disk=True, block=model.block_of(length))
    estimate = storage.bytes_needed(model, length, store)
    views: dict[str, Callable[[], object]] = {
        "trace": lambda: kept.append(analysis.trace(model, ids.tolist(), **options)),
        f"grid of {WINDOW} positions": lambda: analysis.decode(
            model, kept[0], positions=range(length - min(WINDOW, length), length)
        ),
        "pattern of a layer": lambda: kept[0].pattern_of(0),
        "contributions": lambda: analysis.attribute(model, kept[0]),
        **{
            f"flow, {method}": partial(flow, model, kept, method, FLOWS[method])
            for method in methods or FLOWS
        },
    }
    print(f"{length} tokens: estimate of the trace {estimate / 1e9:.2f} GB")
    for name, work in views.items():
        print(f"  {name:22} {line(work)}", flush=True)
    print(f"  error of a state {kept[0].reuse_error:.0e}, of a weight {kept[0].pattern_error:.0e}")


def main() -> None:
    """Measure the default model at several lengths."""
    if sys.argv[1:2] == ["--long"]:
        length, *methods = sys.argv[2:] or ["4096"]
        measure_long(int(length), tuple(methods))
        return
    if sys.argv[1:2] == ["--one"]:
        print(measure(int(sys.argv[2]), STORES[int(sys.argv[3])]), flush=True)
        return
    for length in sys.argv[1:] or ("256", "512", "1024"):
        for number in range(len(STORES)):
            command = [sys.executable, "-m", "benchmarks.trace_memory", "--one", length]
            subprocess.run([*command, str(number)], check=True)  # noqa: S603


if __name__ == "__main__":
    main()
