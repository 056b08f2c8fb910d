"""Compare one more token on a seen prompt with the whole of that prompt, for each view.

    python -m benchmarks.prefix [TOKENS ...]      # 16, 64, 256 and 1024 unless given

It uses the default model on one thread and prints CPU seconds. The whole is one run; one more
token is the least of a few, each on a longer prompt.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import analysis
from analysis.model.handle import Model

REPEATS = 3
#: View -> its computation. The first two give the grid of a prompt.
VIEWS: dict[str, Callable[[Model, Any], Any]] = {
    "grid": analysis.decode,
    "flow": lambda model, trace: analysis.flow(model, trace, method="proximity", threshold=0.05),
    "emergence": lambda model, trace: analysis.emergence(model, trace, causal=False),
    "causal commit": analysis.emergence,
    "attribution": analysis.attribute,
}
#: Views that take minutes are measured up to this many tokens.
MOST = {"emergence": 256, "causal commit": 256}


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the CPU seconds of a call, and its result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def everything(model: Model, ids: list[int], before: Any) -> tuple[dict[str, float], Any]:
    """Return the seconds of the trace and of each view of a prompt, and the trace."""
    spent: dict[str, float] = {}
    spent["trace"], trace = seconds(lambda: analysis.trace(model, ids, after=before))
    for name, compute in VIEWS.items():
        if len(ids) <= MOST.get(name, len(ids)) + REPEATS:
            spent[name], _ = seconds(lambda compute=compute: compute(model, trace))  # type: ignore[misc]
    return spent, trace


def measure(model: Model, size: int) -> None:
    """Print the table of one number of tokens."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(0, model.info.vocab, (size + REPEATS,), generator=generator).tolist()
    whole, trace = everything(model, ids[:size], None)
    more: dict[str, float] = dict.fromkeys(whole, float("inf"))
    error = 0.0
    for length in range(size + 1, size + REPEATS + 1):
        spent, trace = everything(model, ids[:length], trace)
        error = max(error, trace.reuse_error)
        more = {name: min(more[name], spent.get(name, more[name])) for name in more}
        if trace.reused != length - 1:
            raise SystemExit(f"{length} tokens: the prefix was not used.")
    both = ("trace", "grid")
    whole["trace and grid"], more["trace and grid"] = (
        sum(found[name] for name in both) for found in (whole, more)
    )
    print(f"{size} tokens; error {error:.0e}")
    print(f"  {'':16} {'whole':>9} {'one more':>9} {'ratio':>8}")
    for name, spent_on_all in whole.items():
        ratio = more[name] / spent_on_all
        print(
            f"  {name:16} {spent_on_all:7.2f} s {1000 * more[name]:6.0f} ms"
            f" {ratio * size:5.1f}/{size}"
        )


def main() -> None:
    """Print one table for each number of tokens."""
    torch.set_num_threads(1)
    model = analysis.load_model("smollm2-135m-instruct")
    analysis.decode(model, analysis.trace(model, [1, 2, 3]))
    for size in map(int, sys.argv[1:] or ("16", "64", "256", "1024")):
        measure(model, size)


if __name__ == "__main__":
    main()
