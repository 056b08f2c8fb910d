"""Compare one more token on a seen prompt with the whole of that prompt, for each view.

    python -m benchmarks.prefix [TOKENS ...]      # 16, 64, 256 and 1024 unless given

It uses the default model on one thread and prints CPU seconds. The whole is one run; one more
token is the least of a few, each on a longer prompt. The first longer trace copies the states of
the prefix ("trace, the first"), the next ones share them. "Plain" is the model's own pass with its
own cache, without capture: no trace of one more token can be faster than one that reads all weights
once, and a trace runs three known positions again, as a check.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

import analysis
from analysis.model.handle import Model
from analysis.tracing.prefix import CHECKED

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


@torch.no_grad()
def plain(model: Model, ids: list[int], size: int) -> dict[str, tuple[float, float]]:
    """Seconds of the model's own passes, without any capture: of a prompt, and of what follows it.

    Reading all weights once is the least that any of them takes.
    """
    whole, _ = seconds(lambda: model.hf(input_ids=torch.tensor([ids[:size]]), use_cache=False))
    found = {}
    for name, count in (("plain pass", 1), ("plain, 4 positions", CHECKED + 1)):
        spent = []
        for _ in range(REPEATS):
            cache, start = DynamicCache(), size + 1 - count
            model.hf(input_ids=torch.tensor([ids[:start]]), past_key_values=cache)
            rest = torch.tensor([ids[start : size + 1]])
            go_on = partial(model.hf, rest, past_key_values=cache, logits_to_keep=1)
            spent.append(seconds(go_on)[0])
        found[name] = (whole, min(spent))
    return found


def measure(model: Model, size: int) -> None:
    """Print the table of one number of tokens."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(0, model.info.vocab, (size + REPEATS,), generator=generator).tolist()
    whole, trace = everything(model, ids[:size], None)
    runs, error = [], 0.0
    for length in range(size + 1, size + REPEATS + 1):
        spent, trace = everything(model, ids[:length], trace)
        runs.append(spent)
        error = max(error, trace.reuse_error)
        if trace.reused != length - 1:
            raise SystemExit(f"{length} tokens: the prefix was not used.")
    rows = plain(model, ids, size)
    rows["trace, the first"] = whole["trace"], runs[0]["trace"]
    rows |= {name: (all_of_it, min(run[name] for run in runs)) for name, all_of_it in whole.items()}
    for name in [one for one in VIEWS if one in whole]:
        both = zip(rows["trace"], rows[name], strict=True)
        rows[f"trace and {name}"] = tuple(map(sum, both))  # type: ignore[assignment]
    print(f"{size} tokens; error {error:.0e}")
    print(f"  {'':24} {'whole':>9} {'one more':>9} {'ratio':>8}")
    for name, (all_of_it, one) in rows.items():
        ratio = one / all_of_it * size
        print(f"  {name:24} {all_of_it:7.2f} s {1000 * one:6.0f} ms {ratio:5.1f}/{size}")


def main() -> None:
    """Print one table for each number of tokens."""
    torch.set_num_threads(1)
    model = analysis.load_model("smollm2-135m-instruct")
    analysis.decode(model, analysis.trace(model, [1, 2, 3]))
    for size in map(int, sys.argv[1:] or ("16", "64", "256", "1024")):
        measure(model, size)


if __name__ == "__main__":
    main()
