"""Programs that firebrand compiles to exact weights: techniques find the compiled edges alone.

The expected edges come from the compiled matrices: which slots of the residual stream each head and
each MLP reads and writes. The checkpoint is a stock Phi-3 whose norms are pinned by a constant of
2 to the 60th, and most of its MLPs write nothing at most positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from firebrand import Machine, compile_machine, history
from firebrand.hf_export import to_huggingface

import analysis
from analysis.model.handle import Model

PROGRAMS = {
    "sum": (history(0) + history(2)).clip(0, 9),
    "minus one": (history(0) - 1).relu(),
    "two steps": ((history(0) - 2).relu() + (history(1) - 3).relu()).clip(0, 9),
    "three terms": (history(1) + history(0) - history(2)).clip(0, 9),
    "deep": (((history(0) - 1).relu() - 1).relu() - 1).relu(),
    "copy": history(1),
}
CLEAN, CORRUPTED = "3 5 6", "1 2 2"
LAST = 3  # position 0 has the start token
#: Slots of the embedding: the constant and the token.
CONSTANT, TOKEN = 0, 3


class Part(NamedTuple):
    """A head or an MLP: its name, and the slots that it reads and writes.

    ``back`` is how many positions before its own a head reads.
    """

    name: str
    reads: set[int]
    writes: set[int]
    back: int = 0


class Compiled(NamedTuple):
    """A program, its model as this package opens it, and its parts by layer."""

    program: Any
    model: Model
    parts: list[Part]


def slots(matrix: Any, axis: int) -> set[int]:
    """The slots of a matrix' rows or columns that are not zero."""
    dense = matrix.toarray() if hasattr(matrix, "toarray") else np.asarray(matrix)
    return set(np.flatnonzero(np.abs(dense).sum(axis)).tolist())


def parts_of(program: Any) -> list[Part]:
    """Heads and MLPs with their layers; an MLP is in the layer of the attention before it.

    Layer 0 makes positions, which only queries and keys read.
    """
    weights, made, layer, full = program.weights, [], 0, True
    for step in program.config["schedule"]:
        if step["kind"] == "attention":
            layer, full = layer + 1, False
            for place, head in enumerate(step["heads"] if "heads" in step else [step["index"]]):
                back = -round(float(np.asarray(weights[f"head_{head}_q"])[0, 0]))
                read, written = (weights[f"head_{head}_{name}"] for name in "vo")
                name = f"head {layer}.{place}"
                made.append(Part(name, slots(read, 1), slots(written, 0), back))
            continue
        layer, full = layer + full, True
        read, written = (weights[f"ff_{step['index']}_{name}"] for name in ("in", "out"))
        made.append(Part(f"mlp {layer}", slots(read, 1), slots(written, 0)))
    return made


def live(program: Any, parts: list[Part]) -> list[Part]:
    """The parts with a way to the answer, the last ones first."""
    wanted = slots(program.weights["unembedding"], 1)
    found = []
    for part in reversed(parts):
        if part.writes & wanted:
            found.append(part)
            wanted |= part.reads
    return found


def edges_of(program: Any, parts: list[Part]) -> Iterator[tuple[str, str, int]]:
    """Sender, receiver and position of each edge that carries something of the token."""
    used = live(program, parts)
    carries: dict[int, list[str]] = {TOKEN: ["embedding"]}
    for part in reversed(used):
        if part.reads & carries.keys():
            for slot in part.writes:
                carries.setdefault(slot, []).append(part.name)
    for part in (Part("answer", slots(program.weights["unembedding"], 1), set()), *used):
        receiver = f"{part.name} value" if part.name.startswith("head") else part.name
        for slot in part.reads & carries.keys():
            for sender in carries[slot]:
                yield sender, receiver, LAST - part.back


def name_of(layer: int, head: int | None) -> str:
    """A head's or an MLP's name."""
    return f"mlp {layer}" if head is None else f"head {layer}.{head}"


@pytest.fixture(scope="module", params=sorted(PROGRAMS))
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    machine = Machine(PROGRAMS[request.param], lower=0, upper=9)
    program = compile_machine(machine, max_context=8)
    folder = to_huggingface(program, tmp_path_factory.mktemp("compiled"))
    return Compiled(program, analysis.load_model(str(folder)), parts_of(program))


def test_the_model_computes_the_program(compiled: Compiled) -> None:
    program, model, _ = compiled
    assert model.check().passed
    for prompt in (CLEAN, CORRUPTED):
        run = analysis.trace(model, prompt)
        answer = model.tokenizer.decode([int(run.logits[-1].argmax())])
        tokens = [int(one) for one in prompt.split()]
        assert int(answer) == program.generate(tokens, 1)[len(tokens)]
    assert {part for block in model.stream.blocks for part in (w.part for w in block.writers)} == {
        "attention", "mlp",
    }  # fmt: skip


@pytest.mark.parametrize("measured", [0, 20])
def test_the_component_graph_has_the_compiled_edges_alone(
    compiled: Compiled, measured: int
) -> None:
    program, model, parts = compiled
    wanted = set(edges_of(program, parts))
    graph = analysis.component_graph(model, CLEAN, CORRUPTED, measured=measured, draws=0, edges=40)
    edges = zip(graph.edge_sender, graph.edge_receiver, graph.edge_pos, strict=True)
    found = [(graph.senders[s], graph.receivers[r], int(p)) for s, r, p in edges]
    sizes = np.abs(graph.edge_effect)
    assert set(found[: len(wanted)]) == wanted
    assert sizes[: len(wanted)].min() > 0.01 * sizes.max()
    assert sizes[len(wanted) :].max(initial=0.0) < 0.01 * sizes.max()
    assert graph.kept[0] == pytest.approx(1.0)
    assert graph.removed[0] == pytest.approx(0.0)


def test_the_effect_graph_has_the_compiled_links_alone(compiled: Compiled) -> None:
    program, model, parts = compiled
    wanted = {(one.name, LAST - one.back) for one in live(program, parts)}
    graph = analysis.flow(model, analysis.trace(model, CLEAN), method="effect")
    sizes = {
        (name_of(one.layer, one.head), one.source_pos): abs(one.flow)
        for one in graph.links
        if one.target_pos == LAST
    }
    most = max(abs(one.flow) for one in graph.links)
    assert all(one.target_pos == LAST for one in graph.links if abs(one.flow) > 0.01 * most)
    assert {name for name, size in sizes.items() if size > 0.01 * most} == wanted
