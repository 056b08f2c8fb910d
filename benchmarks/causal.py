"""Measure the rank correlation between the flow of each link and the effect of cutting it.

    python -m benchmarks.causal [MODEL] [--quick]    # --quick: the five fastest methods

All flow methods are compared on the same cuts of a prompt: the 40 strongest links of each method,
first with heads summed, then with each head's links on their own. A cut knocks out an attention
edge, or sets an MLP's output to zero (or to its mean) at that position. The effect is the change of
the root's logit.

The method effect measures the links whose cut changes much, and estimates the others. So it has
four lines: all links; the links that other methods chose; the links that it estimates, alone; and
all links with every one of them estimated. For estimated links with an effect of up to 1 % of the
logit, a line says how often the sign is right and the size is within 5 %. The prompts
"further" took no part in the choice of the method.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import analysis
from analysis.flow_graph import causal_check
from analysis.flow_graph.cuts import Cut, baseline_of, cut_of
from analysis.flow_graph.effect import badly_estimated, large_edges
from analysis.flow_graph.options import FLOW_METHODS
from analysis.flow_graph.results import LINK_KINDS, CausalComparison
from analysis.flow_graph.specs import CausalSpec, ComparisonSpec, FlowSpec
from analysis.model.handle import Model
from analysis.tracing.capture import Trace

MODEL = "smollm2-135m-instruct"
PROMPTS = {
    "fact": "The capital of France is",
    "induction": "Mr. Dursley met Mr. Tibbet. Mrs. Potter greeted Mr. Dursley and Mr.",
    "addition": "2+2=4\n3+3=6\n1+4=",
    "repetition": "blue seven lamp river blue seven lamp river blue seven lamp",
    "wrong": "The capital of Australia is",
}
FURTHER = (
    "When Mary and John went to the store, John gave a drink to",
    "The opposite of hot is",
    "Water freezes at zero degrees",
    "def add(a, b):\n    return a +",
    "She opened the door and walked into the",
    "The keys to the cabinet",
    "Paris is in France. Tokyo is in",
    "one two three four five six",
    "A B C D A B C",
    "The doctor told the nurse that",
    "My favourite colour is",
    "Once upon a time, there was a",
    "The sun rises in the east and sets in the",
    "If it rains tomorrow, we will",
    "import numpy as",
    "red: rouge, blue: bleu, green:",
    "The president of the United States lives in the White",
    "He was born in 1990, so in 2000 he was",
    "cat -> cats, dog -> dogs, fox ->",
    "The largest planet in the solar system is",
)
#: Choose the cuts of the further prompts. Those that decode states would take an hour.
QUICK = ("attention", "norm", "value_weighted", "signed", "effect")
VALUES = ("zero", "mean")
LIMIT = 40


def compare(
    model: Model, prompt: str, value: str, per_head: bool, methods: tuple[str, ...]
) -> tuple[CausalComparison, Trace]:
    """Compare methods at the last position of one prompt."""
    trace = analysis.trace(model, prompt)
    spec = CausalSpec(FlowSpec(threshold=1e-4, exact=True), value=value, limit=LIMIT)
    comparison = ComparisonSpec(spec, methods, per_head)
    return causal_check.compare(model, trace, comparison), trace


class Effect(NamedTuple):
    """How well the method effect predicts the cuts of one prompt.

    Attributes:
        whole: Rank correlation over all cuts.
        others: Over the cuts that other methods chose.
        estimated: Over the cuts that it estimates.
        without: Over all cuts, with every one estimated.
        errors: [cut] estimate over measurement minus 1, of effects of up to 1 % of the logit.
        cuts: The number of cuts. measured: Those that the method measures.
    """

    whole: float
    others: float
    estimated: float
    without: float
    errors: NDArray[np.float64]
    cuts: int
    measured: int


def effect_of(model: Model, trace: Trace, found: CausalComparison, value: str) -> Effect:
    """Split the comparison's figure for the method effect into measured and estimated links."""
    per_head = bool((found.head >= 0).any())
    options: dict[str, Any] = {"method": "effect", "baseline": value, "per_head": per_head}
    graph = analysis.flow(model, trace, exact=False, **options)
    estimates = {cut_of(link): link.flow for link in graph.links}
    guessed_by = _estimated(model, trace, value, per_head)
    kinds = [LINK_KINDS[kind] for kind in found.kind.tolist()]
    columns = (found.layer, found.head, found.source_pos, found.target_pos)
    cuts = [
        Cut(kind, *place)
        for kind, *place in zip(kinds, *(column.tolist() for column in columns), strict=True)
    ]
    estimate = np.array([estimates.get(cut, 0.0) for cut in cuts])
    guessed = np.array([guessed_by(cut) for cut in cuts])
    size = np.abs(found.effect).astype(np.float64)
    small = guessed & (size <= 0.01 * abs(found.logit)) & (size > 1e-4)
    drawn = found.flow[found.methods.index("effect")]
    chosen = chosen_by_others(found)
    return Effect(
        causal_check.spearman(drawn, size),
        causal_check.spearman(drawn[chosen], size[chosen]),
        causal_check.spearman(np.abs(estimate[guessed]), size[guessed]),
        causal_check.spearman(np.abs(estimate), size),
        estimate[small] / found.effect[small] - 1.0,
        len(cuts),
        int((~guessed).sum()),
    )


def _estimated(model: Model, trace: Trace, value: str, per_head: bool) -> Callable[[Cut], bool]:
    """Tells whether the method effect estimates a cut, or measures it."""
    last = len(trace.tokens) - 1
    baseline = baseline_of(model, trace, last + 1, value)
    mlps = badly_estimated(trace, last, baseline)
    edges = [
        large_edges(model, trace, layer, baseline, per_head=per_head)
        for layer in range(model.info.layers)
    ]

    def guessed(cut: Cut) -> bool:
        """Whether it is an estimate."""
        if cut.kind == "mlp":
            return not mlps[cut.layer, cut.target_pos]
        return not edges[cut.layer][max(cut.head, 0), cut.target_pos, cut.source_pos]

    return guessed


def chosen_by_others(found: CausalComparison) -> NDArray[np.bool_]:
    """Return which cuts are among the strongest of a method other than effect."""
    chosen = np.zeros(len(found.effect), bool)
    for method, flow in zip(found.methods, found.flow, strict=True):
        if method != "effect":
            least = np.sort(flow)[::-1][:LIMIT][-1]
            chosen |= (flow >= least) & (flow > 0.0)
    return chosen


def line(name: str, values: list[float]) -> str:
    """Format one row of the table."""
    return f"{name:24s}" + "".join(f"{value:12.2f}" for value in values)


def summary(name: str, several: list[Effect]) -> None:
    """Print the figures of the method effect over several prompts: means, and the least."""
    rows = {
        "all links": [one.whole for one in several],
        "chosen by others": [one.others for one in several],
        "estimated links alone": [one.estimated for one in several],
        "nothing measured": [one.without for one in several],
    }
    cuts, measured = sum(one.cuts for one in several), sum(one.measured for one in several)
    print(f"effect, {name}: {len(several)} prompts, {cuts} cuts, {measured} measured by the method")
    for title, values in rows.items():
        print(f"  {title:22s} mean {np.mean(values):.3f}  least {np.min(values):.3f}")
    errors = np.concatenate([one.errors for one in several])
    right, close = np.mean(errors > -1.0), np.mean(np.abs(errors) <= 0.05)
    print(
        f"  estimates of effects from 0.0001 logits to 1 % of the logit: {len(errors)}, sign right"
        f" {right:.1%}, within 5 % {close:.1%}, median error {np.median(np.abs(errors)):.1%}",
        flush=True,
    )


def methods_table(model: Model, value: str, per_head: bool, methods: tuple[str, ...]) -> None:
    """Print methods by prompts, and the figures of the method effect."""
    found, effects = {}, []
    for name, prompt in PROMPTS.items():
        found[name], trace = compare(model, prompt, value, per_head, methods)
        effects.append(effect_of(model, trace, found[name], value))
    print(" " * 24 + "".join(f"{name:>12s}" for name in [*PROMPTS, "mean"]))
    table = np.array([result.correlations for result in found.values()]).T
    for method, row in zip(next(iter(found.values())).methods, table.tolist(), strict=True):
        print(line(method, [*row, float(np.nanmean(row))]))
    print(line("largest effect", [largest_effect(result) for result in found.values()]))
    summary("these prompts", effects)


def further(model: Model, value: str, per_head: bool) -> None:
    """Print the figures of the method effect on prompts that took no part in its choice."""
    effects = []
    for prompt in FURTHER:
        found, trace = compare(model, prompt, value, per_head, QUICK)
        effects.append(effect_of(model, trace, found, value))
        if effects[-1].others < 0.85:
            print(f"  chosen by others: {effects[-1].others:.3f} {prompt!r}", flush=True)
    summary("further prompts", effects)


def largest_effect(result: CausalComparison) -> float:
    """Return the largest absolute effect of one cut, in logits."""
    return float(np.abs(result.effect).max())


def main() -> None:
    """Print one table for each ablation value, with heads summed and on their own."""
    words = [word for word in sys.argv[1:] if word != "--quick"]
    model = analysis.load_model(words[0] if words else MODEL)
    methods = QUICK if "--quick" in sys.argv else tuple(FLOW_METHODS)
    for per_head in (False, True):
        for value in VALUES:
            start = time.process_time()
            heads = "each head on its own" if per_head else "heads summed"
            print(f"\nMLP outputs set to {value}, {heads}")
            methods_table(model, value, per_head, methods)
            further(model, value, per_head)
            print(f"{time.process_time() - start:.0f} CPU seconds", flush=True)


if __name__ == "__main__":
    main()
