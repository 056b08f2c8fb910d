"""How long a model takes to load and check, and what memory it takes, each in a fresh process.

python -m benchmarks.loading [MODEL ...]      # MODEL may end in :DTYPE
"""

from __future__ import annotations

import subprocess
import sys
import time

import psutil

from analysis.model import catalog, memory


def measure(name: str, dtype: str | None) -> str:
    """One line about one model; run in a process of its own."""
    import torch  # noqa: F401 - its own memory and time are not the model's

    from analysis import loading as loading_module

    process = psutil.Process()
    before, start = process.memory_info().rss, time.perf_counter()
    loaded = loading_module.load_pretrained(name, dtype=dtype)
    read = time.perf_counter() - start
    model = loading_module.build_model(loaded)
    understood = time.perf_counter() - start
    worst = model.check().largest_error
    entry = catalog.find(name)
    estimate = memory.needed(entry, catalog.dtype_of(entry, dtype))
    grown = process.memory_info().rss - before
    return (
        f"{name} {model.info.dtype}{' ' + model.info.quantised if model.info.quantised else ''}: "
        f"read in {read:.1f} s, understood after {understood:.1f} s, largest error {worst:.0e}; "
        f"weights {model.nbytes / 1e6:.0f} MB, process +{grown / 1e6:.0f} MB, "
        f"estimate {estimate / 1e6:.0f} MB"
    )


def main() -> None:
    """Measure each model named, or the default one in two dtypes."""
    if sys.argv[1:2] == ["--one"]:
        name, _, dtype = sys.argv[2].partition(":")
        print(measure(name, dtype or None), flush=True)
        return
    default = catalog.DEFAULT.name
    for name in sys.argv[1:] or (default, f"{default}:bfloat16"):
        subprocess.run([sys.executable, "-m", "benchmarks.loading", "--one", name], check=True)  # noqa: S603


if __name__ == "__main__":
    main()
