"""Compare the estimated memory of a trace with its measured peak, in a fresh process for each.

python -m benchmarks.trace_memory [TOKENS ...]      # 256, 512 and 1024 unless given
python -m benchmarks.trace_memory --long [TOKENS]   # from trace to flow, 4096 unless given

The second command keeps the patterns in 16 bits on disk. It prints the memory of the process
without the pages of mapped files.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import analysis
from analysis.model import catalog
from analysis.tracing import storage
from benchmarks import memory

STORES: tuple[dict[str, Any], ...] = (
    {},
    {"pattern_dtype": "float16"},
    {"pattern_layers": ()},
    {"patterns_on_disk": True},
)


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


def measure_long(length: int) -> None:
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
        "flow": lambda: analysis.flow(model, kept[0], method="proximity", threshold=0.05),
        "column of the grid": lambda: analysis.decode(model, kept[0], positions=[-1]),
        "pattern of a layer": lambda: kept[0].pattern_of(0),
        "contributions": lambda: analysis.attribute(model, kept[0]),
    }
    print(f"{length} tokens: estimate {estimate / 1e9:.2f} GB")
    for name, work in views.items():
        start = time.process_time()
        own = memory.own_peak(work)
        seconds = time.process_time() - start
        print(f"  {name:20} {own / 1e9:6.2f} GB {seconds:8.1f} CPU s", flush=True)
    print(f"  error of a state {kept[0].reuse_error:.0e}, of a weight {kept[0].pattern_error:.0e}")


def main() -> None:
    """Measure the default model at several lengths."""
    if sys.argv[1:2] == ["--long"]:
        measure_long(int((*sys.argv[2:], "4096")[0]))
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
