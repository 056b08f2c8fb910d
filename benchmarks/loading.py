"""Measure the time to load and check a model and its memory, in a fresh process for each.

python -m benchmarks.loading [MODEL ...]      # MODEL may end in :DTYPE
"""

from __future__ import annotations

import subprocess
import sys
import time

import psutil

from analysis.model import catalog, memory, pretrained


def measure(name: str, dtype: str | None) -> str:
    """Return one line about one model. Call it in a fresh process."""
    import torch  # noqa: F401 - so that its own import is not measured

    from analysis import loading

    process = psutil.Process()
    before, start = process.memory_info().rss, time.perf_counter()
    loaded = pretrained.load_pretrained(name, dtype=dtype)
    read = time.perf_counter() - start
    model = loading.build_model(loaded)
    built = time.perf_counter() - start
    worst = model.check().largest_error
    entry = catalog.find(name)
    estimate = memory.needed(entry, catalog.dtype_of(entry, dtype))
    grown = process.memory_info().rss - before
    return (
        f"{name} {model.info.dtype}{' ' + model.info.quantised if model.info.quantised else ''}: "
        f"read in {read:.1f} s, built after {built:.1f} s, largest error {worst:.0e}; "
        f"weights {model.nbytes / 1e6:.0f} MB, process +{grown / 1e6:.0f} MB, "
        f"estimate {estimate / 1e6:.0f} MB"
    )


def main() -> None:
    """Measure the given models, or the default model in two dtypes."""
    if sys.argv[1:2] == ["--one"]:
        name, _, dtype = sys.argv[2].partition(":")
        print(measure(name, dtype or None), flush=True)
        return
    default = catalog.DEFAULT.name
    for name in sys.argv[1:] or (default, f"{default}:bfloat16"):
        subprocess.run([sys.executable, "-m", "benchmarks.loading", "--one", name], check=True)  # noqa: S603


if __name__ == "__main__":
    main()
