"""Measure the rank correlation between the flow of each link and the effect of cutting it.

    python -m benchmarks.causal [MODEL]

All flow methods are compared on the same cuts of a prompt: the 40 strongest links of each method,
with heads summed. A cut knocks out an attention edge, or sets an MLP's output to zero (or to its
mean) at that position. The effect is the change of the root's logit.
"""

from __future__ import annotations

import sys
import time

import numpy as np

import analysis
from analysis.flow_graph import causal_check
from analysis.flow_graph.results import CausalComparison
from analysis.flow_graph.specs import CausalSpec, ComparisonSpec, FlowSpec
from analysis.model.handle import Model

MODEL = "smollm2-135m-instruct"
PROMPTS = {
    "fact": "The capital of France is",
    "induction": "Mr. Dursley met Mr. Tibbet. Mrs. Potter greeted Mr. Dursley and Mr.",
    "addition": "2+2=4\n3+3=6\n1+4=",
    "repetition": "blue seven lamp river blue seven lamp river blue seven lamp",
    "wrong": "The capital of Australia is",
}
LIMIT = 40


def compare(model: Model, prompt: str, value: str) -> CausalComparison:
    """Compare all methods at the last position of one prompt."""
    trace = analysis.trace(model, prompt)
    spec = CausalSpec(FlowSpec(threshold=1e-4), value=value, limit=LIMIT)
    return causal_check.compare(model, trace, ComparisonSpec(spec))


def line(name: str, values: list[float]) -> str:
    """Format one row of the table."""
    return f"{name:16s}" + "".join(f"{value:12.2f}" for value in values)


def main() -> None:
    """Print one table for each ablation value: methods by prompts."""
    model = analysis.load_model(sys.argv[1] if len(sys.argv) > 1 else MODEL)
    kinds: tuple[str, ...] = ("zero", "mean")
    for value in kinds:
        start, found = time.process_time(), {}
        for name, prompt in PROMPTS.items():
            found[name] = compare(model, prompt, value)
            token = model.tokenizer.decode([found[name].token])
            print(f"{name:12s} {len(found[name].kind):4d} cuts, answer {token!r}")
        print(f"MLP outputs set to {value}, {time.process_time() - start:.0f} CPU seconds")
        print(" " * 16 + "".join(f"{name:>12s}" for name in [*PROMPTS, "mean"]))
        table = np.array([result.correlations for result in found.values()]).T
        methods = next(iter(found.values())).methods
        for method, row in zip(methods, table.tolist(), strict=True):
            print(line(method, [*row, float(np.nanmean(row))]))
        sizes = [largest_effect(result) for result in found.values()]
        print(line("largest effect", sizes), "logits\n", flush=True)


def largest_effect(result: CausalComparison) -> float:
    """Return the largest absolute effect of one cut, in logits."""
    return float(np.abs(result.effect).max())


if __name__ == "__main__":
    main()
