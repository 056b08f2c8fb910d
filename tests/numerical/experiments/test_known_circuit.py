"""Every technique finds the circuits that are built by hand, and nothing else."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import analysis
from analysis.errors import SpecError
from analysis.flow_graph import causal_check
from analysis.flow_graph.specs import CausalSpec, FlowSpec
from analysis.model import catalog
from analysis.model.handle import Model
from analysis.registry import TECHNIQUES, Technique
from analysis.tasks import teaching
from analysis.tasks.teaching import Attends, Circuit, known_circuit
from analysis.tracing.capture import Trace
from analysis.weights.specs import KINDS
from dash_app.state.examples import defaults_for
from dash_app.state.selection import Selection
from tests.support.example_specs import example_spec

#: Q-, K- and V-composition, in the order of a weight report.
COMPOSITIONS = "QKV"
#: The edges of the induction that decide what head 1.0 reads.
ON_THE_WAY = (
    ("embedding", "head 0.1 value", 2),
    ("head 0.1", "head 1.0 key", 3),
    ("embedding", "head 1.0 query", 6),
)


class Built(NamedTuple):
    """A circuit, the shipped model, and a run of its prompt."""

    circuit: Circuit
    model: Model
    run: Trace


@pytest.fixture(scope="module", params=sorted(teaching.CIRCUITS))
def known(request: pytest.FixtureRequest) -> Built:
    circuit = known_circuit(request.param)
    model = analysis.load_model(request.param)
    return Built(circuit, model, analysis.trace(model, circuit.clean))


def continued(model: Model, prompt: str) -> str:
    """The most likely next token."""
    ids = torch.tensor([model.tokenizer(prompt)["input_ids"]])
    with torch.no_grad():
        logits = model.hf(input_ids=ids).logits[0, -1]
    return str(model.tokenizer.decode([int(logits.argmax())]))


def expected(circuit: Circuit, prompt: str) -> str:
    """What the circuit says, by the prompt's letters alone."""
    if circuit is teaching.INDUCTION:
        return prompt[prompt.index(prompt[-1]) + 1]
    return prompt[prompt.index("*") - 1]


def prompts_of(circuit: Circuit) -> list[str]:
    """Prompts of one repeated letter, or of one star, at random places."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(30):
        letters = rng.permutation([one for one in circuit.symbols if one.isalpha()])[:7].tolist()
        place = int(rng.integers(0, 6))
        end = [letters[place]] if circuit is teaching.INDUCTION else ["="]
        star = [] if circuit is teaching.INDUCTION else ["*"]
        made.append("".join([*letters[: place + 1], *star, *letters[place + 1 :], *end]))
    return made


def test_the_shipped_files_are_what_the_code_builds(tmp_path: Path, known: Built) -> None:
    teaching.export(known.circuit, tmp_path)
    shipped = Path(catalog.find(known.circuit.name).source)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert sorted(path.name for path in shipped.iterdir()) == sorted([*files, "README.md"])
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path, shipped))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    one, other = (
        json.loads((folder / "circuit.json").read_text()) for folder in (tmp_path, shipped)
    )
    assert one == other == json.loads(json.dumps(asdict(known.circuit)))
    assert sum(path.stat().st_size for path in shipped.iterdir()) < 256 << 10


def test_the_model_continues_every_prompt_as_its_circuit_says(known: Built) -> None:
    circuit, model, _ = known
    for prompt in (circuit.clean, *prompts_of(circuit)):
        assert continued(model, prompt) == expected(circuit, prompt), prompt
    assert continued(model, circuit.clean) == circuit.answer
    assert continued(model, circuit.corrupted) == circuit.foil


@pytest.mark.parametrize("per_head", [True, False])
def test_the_effect_graph_has_the_built_edges_first(known: Built, per_head: bool) -> None:
    circuit, model, run = known
    graph = analysis.flow(model, run, method="effect", per_head=per_head)
    links = sorted(graph.links, key=lambda link: -abs(link.flow))
    wanted = {
        (one.layer, one.head if per_head else None, one.source, one.target)
        for one in circuit.attends
    }
    first = links[: len(wanted)]
    assert {(one.layer, one.head, one.source_pos, one.target_pos) for one in first} == wanted
    assert all(one.kind == "attention" for one in links)  # no MLP writes anything
    assert all(one.flow > 0.01 * links[0].flow for one in first)
    assert all(abs(one.flow) < 0.01 * abs(links[0].flow) for one in links[len(wanted) :])


def test_each_built_edge_carries_the_whole_logit(known: Built) -> None:
    circuit, model, run = known
    spec = CausalSpec(FlowSpec(method="effect"), limit=12)
    check = causal_check.compute(model, run, spec)
    edges = [
        Attends(*map(int, edge))
        for edge in zip(check.layer, check.head, check.source_pos, check.target_pos, strict=True)
    ]
    built = np.array([edge in circuit.attends for edge in edges])
    assert built.sum() == len(circuit.attends)
    np.testing.assert_allclose(check.effect[built], check.logit, rtol=0.02)
    assert np.abs(check.effect[~built]).max() < 0.01 * check.logit


@pytest.mark.parametrize("score", ["gradient", "integrated"])
@pytest.mark.parametrize("measured", [0, 12])
def test_the_component_graph_has_the_built_edges_first(
    known: Built, score: str, measured: int
) -> None:
    circuit, model, _ = known
    count = len(circuit.edges)
    graph = analysis.component_graph(
        model, circuit.clean, circuit.corrupted, answer=circuit.answer, foil=circuit.foil,
        score=score, measured=measured, draws=2, edges=40,
    )  # fmt: skip
    found = [
        (graph.senders[s], graph.receivers[r], int(p))
        for s, r, p in zip(graph.edge_sender, graph.edge_receiver, graph.edge_pos, strict=True)
    ]
    assert set(found[:count]) == {(e.sender, e.receiver, e.position) for e in circuit.edges}
    sizes = np.abs(graph.edge_effect)
    assert sizes[count:].max(initial=0.0) < 0.01 * sizes.max()
    assert sizes[:count].min() > 0.01 * sizes.max()
    assert graph.full_value > 9 > -9 > graph.empty_value
    assert graph.kept[0] == pytest.approx(1.0, abs=0.02)
    assert graph.removed[0] == pytest.approx(0.0, abs=0.02)
    if measured:
        # A value or the answer turns into the foil; without query or key, no token leads.
        wanted = [
            0.5 if circuit is teaching.INDUCTION and found[n] in ON_THE_WAY else 1.0
            for n in range(count)
        ]
        assert graph.edge_measured[:count].all()
        lead = graph.full_value - graph.empty_value
        np.testing.assert_allclose(sizes[:count] / lead, wanted, atol=0.01)


def test_the_weights_show_kinds_and_composition(known: Built) -> None:
    circuit, model, _ = known
    report = analysis.weight_report(model)
    names = [f"{a}.{b}" for a, b in zip(report.layers, report.heads, strict=True)]
    for name, kind in circuit.heads.items():
        if kind in KINDS:
            scores = report.kinds[list(KINDS).index(kind)]
            others = np.delete(scores, names.index(name))
            assert scores[names.index(name)] > 0.9
            assert others.max() < 0.5
    first, second = (names.index(name) for name in circuit.heads)
    composed = np.nan_to_num(report.composition)
    own = COMPOSITIONS.index(circuit.composition)
    assert composed[own].argmax() == first * len(names) + second
    assert composed[own, first, second] > 2 * report.baseline
    other = np.delete(composed[:, first, second], own)
    assert other.max() < 0.1 * composed[own, first, second]


@pytest.mark.parametrize(
    "technique", [row for row in TECHNIQUES if row.subject in ("trace", "model")],
    ids=lambda row: row.name,
)  # fmt: skip
def test_every_technique_works_on_it(known: Built, technique: Technique) -> None:
    given: tuple[Any, ...] = (known.model,)
    if technique.subject == "trace":
        given = (known.model, known.run)
    assert isinstance(technique.load()(*given, example_spec(technique.spec)), technique.result)


def test_a_link_to_the_model_opens_a_prompt_that_it_knows(known: Built) -> None:
    opened = defaults_for(known.circuit.name, Selection(model="other", prompt="The capital is"))
    assert opened.prompt == known.circuit.clean
    assert continued(known.model, opened.prompt) == known.circuit.answer


def test_the_circuit_of_another_model_is_refused() -> None:
    with pytest.raises(SpecError, match="not known"):
        known_circuit("addition-5digit")
