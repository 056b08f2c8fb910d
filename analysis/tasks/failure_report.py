"""Wrong answers compared with the most similar prompts that are answered correctly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from analysis.contract import jobs
from analysis.contract.specs import Floats
from analysis.errors import SpecError
from analysis.flow_graph.graph import compute as compute_flow
from analysis.flow_graph.results import LINK_KINDS, NODE_KINDS, Graph
from analysis.flow_graph.specs import FlowSpec
from analysis.model.handle import Model
from analysis.store.memo import Memo
from analysis.tasks.batch import run_suite
from analysis.tasks.suite_report import correct, encoded_of, suite_of
from analysis.tasks.suite_specs import (
    AnsweredPrompt,
    AnswerPair,
    FailureReport,
    FailureSpec,
    FlowChange,
    Outcome,
)
from analysis.tasks.suites import Encoded, Suite, encode
from analysis.tracing.capture import Trace, trace
from analysis.tracing.heads import has_heads, head_vectors

#: Number of links in the report, those that differ most.
MAX_LINKS = 24
#: A state "differs" if its distance to the other exceeds this share of the larger norm.
DIFFERENT = 0.5

#: Kind, layer, head, source and target position of a link.
Key = tuple[str, int, int, int, int]


def compare(
    model: Model, right: Trace, wrong: Trace, method: str = "proximity"
) -> FlowChange | None:
    """Compare the flow into the last state of two runs.

    Args:
        model: The model of both runs.
        right: One run.
        wrong: The other, of equal length.
        method: How shares are computed; no method in logits.

    Returns:
        None if the model's attention can't be split into heads.
    """
    try:
        graphs = []
        for one in (right, wrong):
            graphs.append(compute_flow(model, one, FlowSpec(method=method)))
            jobs.pause()
    except SpecError:
        return None
    mass, other = (_states(one, right.resid.shape[:2]) for one in graphs)
    links = [_links(one) for one in graphs]
    strongest = _strongest(*links)
    places = np.array([key[1:] for key in strongest], np.int64).reshape(len(strongest), 4)
    layers, heads, sources, targets = (np.ascontiguousarray(places[:, i]) for i in range(4))
    flow_right, flow_wrong = (
        np.array([own.get(key, 0.0) for key in strongest], np.float32) for own in links
    )
    return FlowChange(
        method=method,
        right=mass,
        wrong=other,
        distance=(0.5 * np.abs(mass - other).sum(1)).astype(np.float32),
        kinds=tuple(key[0] for key in strongest),
        layers=layers,
        heads=heads,
        sources=sources,
        targets=targets,
        right_links=flow_right,
        wrong_links=flow_wrong,
    )


def _states(graph: Graph, shape: tuple[int, ...]) -> Floats:
    """[row, pos] mass that passes through each residual state."""
    mass = np.zeros(shape, np.float32)
    block = graph.node_kind == NODE_KINDS.index("block")
    np.add.at(mass, (graph.node_depth[block], graph.node_pos[block]), graph.node_flow[block])
    return mass


def _links(graph: Graph) -> dict[Key, float]:
    """Flow of each link by kind, layer, head, source and target position."""
    found: dict[Key, float] = {}
    # The link into an MLP carries the same mass as the link out of it.
    into_mlp = graph.node_kind[graph.link_target] == NODE_KINDS.index("mlp")
    columns: Any = zip(
        graph.link_kind.tolist(), graph.link_layer.tolist(), graph.link_head.tolist(),
        graph.node_pos[graph.link_source].tolist(), graph.node_pos[graph.link_target].tolist(),
        graph.link_flow.tolist(), into_mlp.tolist(), strict=True,
    )  # fmt: skip
    for kind, layer, head, source, target, mass, entering in columns:
        if entering:
            continue
        key = (LINK_KINDS[kind], layer, head, source, target)
        found[key] = found.get(key, 0.0) + mass
    return found


def _strongest(one: dict[Key, float], other: dict[Key, float]) -> list[Key]:
    """The links whose flow differs most, without residual links: they follow from the others."""
    keys = [key for key in one.keys() | other.keys() if key[0] != "residual"]
    keys.sort(key=lambda key: (-abs(one.get(key, 0.0) - other.get(key, 0.0)), key))
    return keys[:MAX_LINKS]


def report(
    model: Model,
    suite: Suite,
    memo: Memo | None = None,
    *,
    most: int = 5,
    encoded: Sequence[Encoded] | None = None,
) -> FailureReport:
    """Pair wrong answers with the most similar right ones, and compare their states.

    The most similar right prompt has the same number of tokens and the fewest different ones
    before the first wrong token of the answer.

    Args:
        model: From ``analysis.load_model``.
        suite: The prompts.
        memo: Keeps finished prompts.
        most: At most this many pairs, the most similar first.
        encoded: The suite's prompts as tokens; tokenised here unless given.

    Raises:
        CancelledError: If the caller's progress listener stops the work.
    """
    if encoded is None:
        encoded = [encode(model.tokenizer, prompt) for prompt in suite.prompts]
    found = run_suite(model, encoded, memo)
    right = [n for n, outcome in enumerate(found) if correct(model, outcome)]
    wrong = [n for n, outcome in enumerate(found) if not outcome.right]
    pairs = sorted(_pairs(found, right, wrong))
    made = []
    for number, (_, good, bad) in enumerate(pairs[:most], 1):
        made.append(_compare_pair(model, suite, found, good, bad))
        jobs.step(number, min(len(pairs), most), "Comparing right and wrong")
    unpaired = len(wrong) - len(pairs)
    return FailureReport(tuple(made), len(right), len(found) - len(right), unpaired, len(pairs))


def _pairs(
    found: Sequence[Outcome], right: Sequence[int], wrong: Sequence[int]
) -> list[tuple[int, int, int]]:
    """(different tokens, right, wrong) for each wrong prompt with a right one of equal length."""
    made = []
    for bad in wrong:
        mine = found[bad]
        stop = mine.start + mine.hits.index(False)
        distances = [
            (
                sum(
                    x != y for x, y in zip(mine.token_ids[:stop], found[n].token_ids, strict=False)
                ),
                n,
            )
            for n in right
            if found[n].start == mine.start and len(found[n].token_ids) == len(mine.token_ids)
        ]
        if distances:
            distance, good = min(distances)
            made.append((distance, good, bad))
    return made


def _compare_pair(
    model: Model, suite: Suite, found: Sequence[Outcome], good: int, bad: int
) -> AnswerPair:
    token = found[bad].hits.index(False)
    position = found[bad].start + token - 1
    runs = []
    for n in (good, bad):
        runs.append(trace(model, found[n].token_ids[: position + 1]))
        jobs.pause()
    one, other = runs
    rows = _distance(one.resid, other.resid)
    same = np.array([x == y for x, y in zip(one.token_ids, other.token_ids, strict=True)])
    differs = np.argwhere((rows > DIFFERENT) & same[None])
    return AnswerPair(
        right=good,
        wrong=bad,
        token=token,
        rows=rows,
        heads=_head_distances(model, one, other, position),
        mlps=_distance(one.mlp_out[:, position], other.mlp_out[:, position]),
        right_probs=found[good].right_probs[:, token],
        wrong_probs=found[bad].right_probs[:, token],
        first=(int(differs[0][0]), int(differs[0][1])) if len(differs) else None,
        flows=compare(model, one, other),
        right_tokens=tuple(token.text for token in one.tokens),
        wrong_tokens=tuple(token.text for token in other.tokens),
        right_prompt=_answered_prompt(model, suite, found, good),
        wrong_prompt=_answered_prompt(model, suite, found, bad),
    )


def _answered_prompt(
    model: Model, suite: Suite, found: Sequence[Outcome], place: int
) -> AnsweredPrompt:
    prompt, outcome = suite.prompts[place], found[place]
    stop = outcome.hits.index(False) + 1 if not outcome.right else len(outcome.hits)
    written = model.tokenizer.decode(outcome.choices[:stop].tolist())
    return AnsweredPrompt(prompt.text, prompt.answer, written, len(outcome.right_ids))


def _distance(one: Any, other: Any) -> Floats:
    """[...] distance of states [..., d_model] over the larger of the two norms."""
    size = np.maximum(np.linalg.norm(one, axis=-1), np.linalg.norm(other, axis=-1))
    distance: Floats = (np.linalg.norm(one - other, axis=-1) / np.maximum(size, 1e-12)).astype(
        np.float32
    )
    return distance


@torch.no_grad()
def _head_distances(model: Model, one: Trace, other: Trace, position: int) -> Floats:
    """[layer, head] distance of each head's output; NaN if a layer can't be split into heads."""
    found = np.full((model.info.layers, model.info.heads), np.nan, np.float32)
    for layer in range(model.info.layers):
        if has_heads(model, layer):
            states = [head_vectors(model, run, layer)[:, position].numpy() for run in (one, other)]
            found[layer, : len(states[0])] = _distance(*states)
            jobs.pause()
    return found


def compute(
    model: Model, spec: FailureSpec, memo: Memo | None = None, longest: int | None = None
) -> FailureReport:
    """Wrong answers of a spec's suite, compared with the most similar right ones."""
    suite = suite_of(model, spec.suite)
    encoded = encoded_of(model, suite, longest)
    return report(model, suite, memo, most=spec.most, encoded=encoded)
