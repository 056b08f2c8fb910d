"""Compare the estimated memory of a trace with its measured peak, in a fresh process for each.

python -m benchmarks.trace_memory [TOKENS ...]      # 256, 512 and 1024 unless given
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

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


def main() -> None:
    """Measure the default model at several lengths."""
    if sys.argv[1:2] == ["--one"]:
        print(measure(int(sys.argv[2]), STORES[int(sys.argv[3])]), flush=True)
        return
    for length in sys.argv[1:] or ("256", "512", "1024"):
        for number in range(len(STORES)):
            command = [sys.executable, "-m", "benchmarks.trace_memory", "--one", length]
            subprocess.run([*command, str(number)], check=True)  # noqa: S603


if __name__ == "__main__":
    main()
