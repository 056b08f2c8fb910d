"""Compare the time of a suite in batches with the time of its prompts one by one.

    python -m benchmarks.tasks [PROMPTS]

Four methods compute accuracy and emergence of the same prompts:

- the task runner with batches, which computes the common beginning of the prompts once
- the task runner with one prompt at a time
- the public functions: ``trace``, then ``decode`` at the answer's positions
- the page's requests: ``trace``, then emergence at every position without the causal commit row

It also prints which fraction of the time is spent on forward passes, and which on decoding rows.
Batches do not reduce the second: on a CPU it is arithmetic only.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import analysis
from analysis.model.handle import Model
from analysis.tasks import batch, suites
from analysis.tasks.suites import Encoded, encode
from analysis.tasks.sum_table import operand_digits
from analysis.trajectory import emergence
from analysis.trajectory.specs import EmergenceSpec


def seconds(work: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def like_the_page(model: Model, prompts: list[Encoded]) -> None:
    """Compute a trace and its emergence, one prompt at a time."""
    for prompt in prompts:
        emergence.compute(model, analysis.trace(model, prompt.token_ids), EmergenceSpec())


def by_public_functions(model: Model, prompts: list[Encoded]) -> None:
    """Trace each prompt, and decode the answer's tokens at all rows."""
    for prompt in prompts:
        trace = analysis.trace(model, prompt.token_ids)
        where = list(range(prompt.start - 1, len(prompt.token_ids) - 1))
        followed = [*prompt.token_ids[prompt.start :], *trace.logits[where].argmax(-1).tolist()]
        analysis.decode(model, trace, k=1, target=followed, positions=where)


def forwards(model: Model, prompts: list[Encoded]) -> None:
    """Run the batched forward passes alone."""
    since = min(prompt.start for prompt in prompts) - 1
    for _ in batch.states(model, [p.token_ids for p in prompts], whole=False, since=since):
        pass


def compare(name: str, count: int) -> None:
    """Print the table of one model."""
    model = analysis.load_model(name)
    own = operand_digits(model)
    suite = suites.build("addition", count, 0, own or 3, padded=own is not None)
    prompts = [encode(model.tokenizer, prompt) for prompt in suite.prompts]
    batch.run_suite(model, prompts[:8])  # warm
    batched = seconds(lambda: batch.run_suite(model, prompts))
    print(f"{name}: {count} prompts of {len(prompts[0].token_ids)} tokens, {batched:.1f} s batched")
    for title, work in (
        ("task runner, one by one", lambda: batch.run_suite(model, prompts, most=1)),
        ("trace and decode, one by one", lambda: by_public_functions(model, prompts)),
        ("like the page, one by one", lambda: like_the_page(model, prompts)),
    ):
        took = seconds(work)
        print(f"  {title:30s} {took:7.1f} s   {took / batched:4.1f} x")
    share = seconds(lambda: forwards(model, prompts)) / batched
    print(f"  of the batched time: forward passes {share:.0%}, decoding rows {1 - share:.0%}")


def main() -> None:
    """Measure the model that adds on 500 prompts and the default model on 20."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    for name, size in (("addition-5digit", count), ("smollm2-135m-instruct", max(count // 25, 20))):
        compare(name, size)


if __name__ == "__main__":
    main()
