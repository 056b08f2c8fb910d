"""Compare the time of a captured forward pass with that of a plain one.

    python -m benchmarks.capture [MODEL]

Then compare one more token after a prompt that was seen with one after a new prompt.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch

import analysis
from analysis.model.handle import Model

SIZES = (16, 64, 256)
ROUNDS = 9


def seconds(work: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def plain(model: Model, tokens: torch.Tensor) -> object:
    """Run the model as transformers does, with its own eager attention."""
    with torch.no_grad():
        return model.hf(input_ids=tokens, use_cache=False).logits


def ratios(model: Model, size: int) -> tuple[float, float]:
    """Return the median plain time, and the median ratio of captured to plain time."""
    ids = torch.randint(0, model.info.vocab, (size,), generator=torch.Generator().manual_seed(3))
    tokens, prompt = ids[None], tuple(ids.tolist())
    ratio, base = [], []
    for _ in range(ROUNDS + 1):
        one = seconds(lambda: plain(model, tokens))
        ratio.append(seconds(lambda: analysis.trace(model, prompt)) / one)
        base.append(one)
    return statistics.median(base[1:]), statistics.median(ratio[1:])


def next_token(model: Model, size: int) -> float:
    """Return the median ratio of one more token on a seen prompt to one on a new prompt."""
    generator = torch.Generator().manual_seed(4)
    ratio = []
    for _ in range(ROUNDS + 1):
        ids = torch.randint(0, model.info.vocab, (size,), generator=generator).tolist()
        work = partial(analysis.generate, model, ids, 1)
        new = seconds(work)
        ratio.append(seconds(work) / new)
    return statistics.median(ratio[1:])


def main() -> None:
    """Print one line for each number of tokens."""
    name = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m-instruct"
    start = time.perf_counter()
    model = analysis.load_model(name)
    print(f"{name}: loaded and checked in {time.perf_counter() - start:.1f} s")
    for size in SIZES:
        base, ratio = ratios(model, size)
        again = next_token(model, size)
        print(
            f"{size:4d} tokens: plain {1000 * base:6.0f} ms, capture {ratio:.2f} x, "
            f"one more token if the prompt was seen {100 * again:.0f} %"
        )


if __name__ == "__main__":
    main()
