"""Circuits of an indirect object and of carries, with their faithfulness against random graphs.

    python -m benchmarks.component_graph [--only carries|indirect-object] [--pairs N] [--score NAME]

The carries are those of the model ``addition-5digit``: N pairs of sums (16) that differ in one
carry into the hundreds, read in both directions: towards the digit with the carry, and towards the
one without. The sums of a control pair differ below too, but not in a carry. Scores and logits are
means over the pairs. ``kept`` is the share of the logit difference that remains if all
edges outside the graph are cut, ``removed`` if the graph's edges are cut.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

import analysis
from analysis.experiments.component_graph import Options, Pair, component_graph, graph_of_pairs
from analysis.experiments.component_specs import EDGE_SCORES, ComponentGraph
from analysis.tasks.carry_patching import pairs_for
from analysis.tasks.sum_table import table

CLEAN = "When Mary and John went to the store, John gave a book to"
CORRUPTED = "When Mary and John went to the store, Mary gave a book to"
DIGITS, COLUMN = 5, 2


def report(title: str, graph: ComponentGraph, seconds: float, shown: int = 12) -> None:
    """Print a graph's curve and its strongest edges."""
    print(f"\n{title} ({seconds:.1f} s; {graph.possible:,} edges; {graph.pairs} pairs)")
    print(f"logit difference {graph.full_value:.2f}, with every edge cut {graph.empty_value:.2f};"
          f" rebuilt states are off by {graph.rebuild_error:.0e}")  # fmt: skip
    print(
        f"area under the curve (CPR) {graph.area:.3f}, distance from 1 (CMD) {graph.distance:.3f}"
    )
    print("edges    kept  removed  random (lowest to highest)")
    for number, size in enumerate(graph.sizes.tolist()):
        values = graph.random[number]
        random = "" if np.isnan(values).any() or not len(values) else (
            f"{values.mean():6.3f} ({values.min():.3f} to {values.max():.3f})")  # fmt: skip
        print(f"{size:8,} {graph.kept[number]:6.3f} {graph.removed[number]:7.3f}  {random}")
    for edge in range(min(shown, len(graph.edge_size))):
        names = graph.senders[graph.edge_sender[edge]], graph.receivers[graph.edge_receiver[edge]]
        print(
            f"  {names[0]} -> {names[1]} at {graph.edge_pos[edge]}: {graph.edge_effect[edge]:+.2f}"
        )


def carry_pairs(model: Any, count: int) -> dict[str, list[Pair]]:
    """By title, pairs of sums up to the digit of the hundreds."""
    rng = np.random.default_rng(13)
    tables = [
        table(model, a, b, DIGITS, padded=True)
        for a, b in pairs_for(rng, count, DIGITS, COLUMN, True, False)
    ]
    digit = tables[0].answers[COLUMN]
    without, carried, control = (
        [tuple(one.token_ids) for one in several.encoded] for several in tables
    )

    def pairs(first: list[Any], second: list[Any], foils: list[Any]) -> list[Pair]:
        """Pairs whose answer is the first sum's digit."""
        return [
            Pair(one[:digit], other[:digit], one[digit], foil[digit])
            for one, other, foil in zip(first, second, foils, strict=True)
        ]

    return {
        "Towards the digit with the carry": pairs(carried, without, without),
        "Towards the digit without the carry": pairs(without, carried, carried),
        "Control: no carry in either sum": pairs(without, control, carried),
    }


def carries(count: int) -> None:
    """The circuits of a carry into the hundreds."""
    model = analysis.load_model("addition-5digit")
    for title, pairs in carry_pairs(model, count).items():
        start = time.perf_counter()
        graph = graph_of_pairs(model, pairs, Options(edges=100, measured=0))
        report(title, graph, time.perf_counter() - start)


def indirect_object(score: str) -> None:
    """The circuit of an indirect object on the default model."""
    model = analysis.load_model("smollm2-135m-instruct")
    start = time.perf_counter()
    graph = component_graph(
        model, CLEAN, CORRUPTED, answer=" Mary", foil=" John", draws=2, score=score
    )
    report(f"Indirect object, {score}", graph, time.perf_counter() - start)


def main() -> None:
    """Run the chosen parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("carries", "indirect-object"))
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--score", choices=tuple(EDGE_SCORES), default=EDGE_SCORES.default)
    chosen = parser.parse_args()
    if chosen.only != "indirect-object":
        carries(chosen.pairs)
    if chosen.only != "carries":
        indirect_object(chosen.score)


if __name__ == "__main__":
    main()
