"""How much faster a suite runs in batches than prompt by prompt, in one run.

    python -m benchmarks.tasks [PROMPTS]

Three ways over the same prompts: one by one as the page does it (a trace, then emergence at every
position, without the causal commit row), the task runner with batches of one, and as it is.
On a model of millions of parameters arithmetic dominates and batching saves little on a CPU.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import analysis
from analysis.models.handle import Model
from analysis.specs import EmergenceSpec
from analysis.tasks import outcomes, suites
from analysis.tasks.columns import operand_digits
from analysis.tasks.prompts import Encoded, encode
from analysis.techniques import emergence


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def one_by_one(model: Model, prompts: list[Encoded]) -> None:
    """A trace and its emergence, a prompt at a time."""
    for prompt in prompts:
        emergence.compute(model, analysis.trace(model, prompt.token_ids), EmergenceSpec())


def compare(name: str, count: int) -> None:
    """Print one line for a model."""
    model = analysis.load_model(name)
    own = operand_digits(model)
    suite = suites.build("addition", count, 0, own or 3, padded=own is not None)
    prompts = [encode(model.tokenizer, prompt) for prompt in suite.prompts]
    outcomes.run(model, prompts[:8])  # warm
    batched = seconds(lambda: outcomes.run(model, prompts))
    single = seconds(lambda: outcomes.run(model, prompts, most=1))
    public = seconds(lambda: one_by_one(model, prompts))
    print(
        f"{name}: {count} prompts batched {batched:.1f} s; one by one {single:.1f} s "
        f"({single / batched:.1f} x); trace and emergence {public:.1f} s ({public / batched:.1f} x)"
    )


def main() -> None:
    """The trained adder on 500 prompts, the default model on 20 of them."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    for name, size in (("addition-5digit", count), ("smollm2-135m-instruct", count // 25)):
        compare(name, size)


if __name__ == "__main__":
    main()
