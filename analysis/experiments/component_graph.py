"""The component graph of an answer: score all edges, prune them to whole paths, and run graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from analysis.contract import jobs
from analysis.contract.specs import Floats, Ints, resolve_index
from analysis.errors import PromptError, SpecError
from analysis.experiments.component_layout import Lead, grown, largest, random_graph
from analysis.experiments.component_specs import (
    EDGE_ABLATIONS,
    EDGE_POSITIONS,
    EDGE_SCORES,
    STEPS,
    ComponentGraph,
    ComponentGraphSpec,
    check_request,
    names_of,
)
from analysis.experiments.edge_runs import EdgeRuns, edge_scores
from analysis.model.handle import Model
from analysis.store.memo import Memo
from analysis.tracing.capture import prompt_ids
from analysis.tracing.tokens import describe_tokens, token_id

#: Sizes of the graphs that run, times powers of 10, up to all edges.
_SIZES = (1, 3)
#: Graphs of at most this share of all edges are compared with random graphs, and cut.
_COMPARED = 0.1
_NAMES = ("The clean prompt", "The corrupted prompt")


@dataclass(frozen=True)
class Pair:
    """A prompt, the second prompt, and the tokens of the target.

    Attributes:
        clean, corrupted: Token ids; ``corrupted`` is None without a second prompt.
        answer, foil: Token ids; None: as in ``component_graph``.
    """

    clean: tuple[int, ...]
    corrupted: tuple[int, ...] | None
    answer: int | None = None
    foil: int | None = None


@dataclass(frozen=True)
class Options:
    """The options of a component graph, as in its spec."""

    ablation: str = "resample"
    score: str = "gradient"
    positions: str = "each"
    edges: int = 300
    measured: int = 0
    curve: bool = True
    draws: int = 3
    seed: int = 0


def component_graph(
    model: Model,
    clean: Any,
    corrupted: Any = None,
    *,
    answer: int | str | None = None,
    foil: int | str | None = None,
    ablation: str = "resample",
    score: str = "gradient",
    positions: str = "each",
    edges: int = 300,
    measured: int = 0,
    curve: bool = True,
    draws: int = 3,
    seed: int = 0,
) -> ComponentGraph:
    """The edges between heads, MLPs, embedding and answer that carry the answer of a prompt.

    Edges are scored by edge attribution patching (Syed et al., 2023, arXiv 2310.10348). A graph
    has the strongest edges that lie on a path from the embedding to the answer. Its faithfulness is
    measured: all other edges are cut in a run (as in the MIB benchmark, Mueller et al., 2025,
    arXiv 2504.13151).

    A graph that keeps the answer is one way to make it, not the only one: see what remains if the
    graph is cut. Where a softmax saturates, an edge can carry everything and have a score near 0.
    With shared keys and values, each head has a key and a value of its own. A norm after attention,
    or over all queries of a layer, is applied to each head with the whole layer's scale.

    Args:
        model: From ``load_model``.
        clean: The prompt after which the model gives the answer: text or token ids.
        corrupted: A second prompt with as many tokens; needed by the ablation "resample".
        answer: A token, as id or text; the clean run's top token unless given.
        foil: Another token; the corrupted run's top token unless given, or the second token of the
            clean run.
        ablation: What a cut edge carries: "resample" (the sender's output after ``corrupted``),
            "mean" (over the positions of ``clean``) or "zero".
        score: "gradient" or "integrated".
        positions: "each" keeps positions apart, "sum" sums the scores over them.
        edges: Edges of the largest graph that is returned, 1 to 5,000.
        measured: How many of the strongest edges are cut one at a time (path patching;
            Goldowsky-Dill et al., 2023, arXiv 2304.05969).
        curve: Whether graphs of several sizes run.
        draws: Random graphs of each size to compare with, 0 to 20.
        seed: The seed of the random graphs.

    Returns:
        A ComponentGraph: the edges in the order in which they enter the graph, and the curves.

    Raises:
        PromptError: If a prompt is invalid, or the answer or the foil is not one token.
        SpecError: If the prompts differ in length, the target does not change, or the model's
            senders do not sum to what its receivers read.
        BackwardError: If the model can't run backward.
        NotEnoughMemoryError: If the senders' outputs do not fit.
        CancelledError: If the caller's progress listener stops the work.
    """
    for table, name in (
        (EDGE_ABLATIONS, ablation), (EDGE_SCORES, score), (EDGE_POSITIONS, positions),
    ):  # fmt: skip
        table.check(name)
    check_request(ablation, corrupted, edges, measured, draws)
    pair = _pair(model, clean, corrupted if ablation == "resample" else None, answer, foil)
    options = Options(ablation, score, positions, edges, measured, curve, draws, seed)
    return graph_of_pairs(model, [pair], options)


def compute(
    model: Model, spec: ComponentGraphSpec, _memo: Memo | None = None, longest: int | None = None
) -> ComponentGraph:
    """The component graph of a spec, a technique of ``analysis.registry``."""
    second = spec.corrupted if spec.ablation == "resample" else None
    pair = _pair(model, spec.clean, second, spec.answer or None, spec.foil or None)
    if longest is not None and len(pair.clean) > longest:
        raise PromptError(
            f"{_NAMES[0]} has {len(pair.clean)} tokens; this server reads at most {longest}.",
            "Shorten it, or raise STRATASCOPE_MAX_PROMPT_TOKENS.",
        )
    options = Options(
        spec.ablation, spec.score, spec.positions, spec.edges, spec.measured, spec.curve,
        spec.draws, spec.seed,
    )  # fmt: skip
    return graph_of_pairs(model, [pair], options)


def _pair(model: Model, clean: Any, corrupted: Any, answer: Any, foil: Any) -> Pair:
    """Token ids of prompts and target.

    Raises:
        PromptError: If one of them is invalid.
        SpecError: If the prompts differ in length.
    """
    ids: list[tuple[int, ...] | None] = []
    for name, prompt in zip(_NAMES, (clean, corrupted), strict=True):
        try:
            ids.append(None if prompt is None else prompt_ids(model, prompt))
        except PromptError as error:
            raise PromptError(f"{name} can't be read. {error.message}", error.hint) from error
    first, second = ids
    assert first is not None  # noqa: S101 - there is a clean prompt
    if second is not None and len(first) != len(second):
        raise SpecError(
            f"The prompts have {len(first)} and {len(second)} tokens, so their positions do not"
            " correspond.",
            "Write prompts of equal length.",
        )
    tokens = []
    for name, token in (("The answer", answer), ("The foil", foil)):
        try:
            found = token_id(model.tokenizer, token)
        except PromptError as error:
            raise PromptError(f"{name} {error.message}", error.hint) from error
        size = model.info.vocab
        tokens.append(None if found is None else resolve_index(name, found, size))
    return Pair(first, second, *tokens)


def graph_of_pairs(model: Model, pairs: Sequence[Pair], options: Options) -> ComponentGraph:
    """The component graph of prompts of equal length: scores and targets are means over pairs.

    Args:
        model: From ``load_model``.
        pairs: Prompts in which the same positions have the same roles.
        options: The options.

    Raises:
        SpecError: If the mean target is the same with all edges kept and with all cut.
        CancelledError: If the caller's progress listener stops the work.
    """
    jobs.step(0, 1, "Running the prompts")
    jobs.pause()
    several = [_Target.of(model, pair, options.ablation) for pair in pairs]
    layout, length = several[0].runs.layout, several[0].runs.positions
    scores = np.zeros((*layout.shape, length), np.float32)
    for one in several:
        scores += edge_scores(model, one.runs, one.lead, STEPS[options.score]) / len(pairs)
    work = _Work(several, options, scores)
    ranked, positions = work.ranked()
    order, sizes = grown(layout, ranked, options.edges, positions)
    result = _result(model, pairs[0], work, order, sizes)
    if options.measured:
        result = _measured(work, result, order)
    return _with_curves(work, result, ranked) if options.curve else result


@dataclass(frozen=True)
class _Target:
    """The runs of one pair, and its target."""

    runs: EdgeRuns
    lead: Lead

    @classmethod
    def of(cls, model: Model, pair: Pair, ablation: str) -> _Target:
        """From a pair of prompts.

        Raises:
            SpecError: If answer and foil are the same token.
        """
        runs = EdgeRuns(model, pair.clean, pair.corrupted, ablation)
        best = runs.calls.logits.topk(2).indices.tolist()
        answer = best[0] if pair.answer is None else pair.answer
        foil = pair.foil
        if foil is None and runs.second is not None:
            foil = int(runs.second.logits.argmax())
        elif foil is None:
            foil = best[1] if best[0] == answer else best[0]
        if foil == answer:
            text = model.tokenizer.decode([foil])
            raise SpecError(
                f"The foil is the same token as the answer, {text!r}.", "Choose another foil."
            )
        return cls(runs, Lead(answer, foil))

    @torch.no_grad()
    def ends(self) -> tuple[float, float]:
        """The target with all edges kept, and with all cut."""
        full = self.runs.calls.logits_of(self.runs.clean.last[None])
        empty = self.runs.calls.logits_of(self.runs.empty.last[None])
        return tuple(float(self.lead.of(one[0].double())) for one in (full, empty))  # type: ignore[return-value]


class _Work:
    """All pairs with the mean scores of edges."""

    def __init__(self, several: Sequence[_Target], options: Options, scores: Floats) -> None:
        self.several, self.options = several, options
        self.layout, self.length = several[0].runs.layout, several[0].runs.positions
        self.summed = options.positions == "sum"
        self.cancelled = 0.0
        if self.summed:
            whole = float(np.abs(scores).sum())
            scores = scores.sum(-1, keepdims=True)
            self.cancelled = 1.0 - float(np.abs(scores).sum()) / max(whole, 1e-30)
        self.scores = scores.ravel()
        ends = np.array([one.ends() for one in several])
        self.full, self.empty = (float(value) for value in ends.mean(0))
        if self.full == self.empty:
            raise SpecError(
                f"The target is {self.full:.4g} with every edge kept and with every edge cut.",
                "Choose prompts, or an answer and a foil, that differ.",
            )

    def ranked(self) -> tuple[Ints, int]:
        """Codes of all edges with an effect, the strongest first; and the number of positions."""
        codes = np.flatnonzero(self.scores).astype(np.int64)
        order = np.argsort(-np.abs(self.scores[codes]), kind="stable")
        return codes[order], 1 if self.summed else self.length

    def at_positions(self, codes: Ints) -> Ints:
        """Codes of edges at single positions, ascending, as runs take them."""
        if self.summed:
            codes = self.layout.at_all_positions(codes, self.length)
        return np.sort(codes)

    def values(self, graphs: Sequence[Ints], *, keep: bool) -> Floats:
        """[graph] mean target over the pairs."""
        total = np.zeros(len(graphs))
        for one in self.several:
            total += one.runs.values(graphs, one.lead, keep=keep) / len(self.several)
        return total.astype(np.float32)

    def shares(self, values: Floats) -> Floats:
        """Targets as shares: 0 with all edges cut, 1 with all kept."""
        found: Floats = ((values - self.empty) / (self.full - self.empty)).astype(np.float32)
        return found


def _measured(work: _Work, result: ComponentGraph, order: Ints) -> ComponentGraph:
    """The result with measured effects of its strongest edges."""
    effect, done = result.edge_effect.copy(), result.edge_measured.copy()
    chosen = np.argsort(-np.abs(effect), kind="stable")[: work.options.measured]
    for start in range(0, len(chosen), 16):
        part = chosen[start : start + 16]
        jobs.step(start, len(chosen), "Cutting edges")
        jobs.pause()
        graphs = [work.at_positions(order[number : number + 1]) for number in part]
        effect[part] = work.full - work.values(graphs, keep=False)
        done[part] = 1
    return replace(result, edge_effect=effect, edge_measured=done, passes=_passes(work))


def _with_curves(work: _Work, result: ComponentGraph, ranked: Ints) -> ComponentGraph:
    """The result with the faithfulness of graphs of several sizes."""
    generator = np.random.default_rng(work.options.seed)
    positions = 1 if work.summed else work.length
    every = work.layout.possible(positions)
    wanted = _series(every)
    sizes, kept, removed, random = list[int](), list[float](), list[float](), list[Floats]()
    for number, size in enumerate(wanted):
        _progress(3 * number, 3 * len(wanted))
        graph = largest(work.layout, ranked, size, positions)
        graph = work.layout.all_edges(positions) if size == every else graph
        if len(graph) in (0, *sizes):
            continue  # no graph of this size has whole paths
        own = work.at_positions(graph)
        few = len(graph) <= _COMPARED * every
        values = work.shares(work.values([own], keep=True))
        _progress(3 * number + 1, 3 * len(wanted))
        draws = [
            work.at_positions(random_graph(work.layout, len(graph), positions, generator))
            for _ in range(work.options.draws if few else 0)
        ]
        beside = work.shares(work.values(draws, keep=True))
        _progress(3 * number + 2, 3 * len(wanted))
        rest = work.shares(work.values([own], keep=False)) if few else [np.nan]
        sizes.append(len(graph))
        kept.append(float(values[0]))
        removed.append(float(rest[0]))
        random.append(beside if few else np.full(work.options.draws, np.nan, np.float32))
    _progress(1, 1)
    return replace(
        result,
        sizes=np.array(sizes, np.int64),
        kept=np.array(kept, np.float32),
        removed=np.array(removed, np.float32),
        random=np.array(random, np.float32).reshape(len(sizes), work.options.draws),
        passes=_passes(work),
    )


def _progress(done: int, total: int) -> None:
    """Report progress, and let more urgent work run."""
    jobs.step(done, total, "Running graphs")
    jobs.pause()


def _series(every: int) -> list[int]:
    """10, 30, 100, 300, ... and all."""
    found = [digit * 10**power for power in range(1, 12) for digit in _SIZES]
    return [*(size for size in found if size < every), every]


def _passes(work: _Work) -> int:
    return sum(one.runs.passes for one in work.several)


def _result(model: Model, pair: Pair, work: _Work, order: Ints, sizes: Ints) -> ComponentGraph:
    layout, first = work.layout, work.several[0]
    positions = 1 if work.summed else work.length
    receiver, sender, pos = layout.split(order, positions)
    lead, other = first.lead, pair.corrupted or ()
    known = describe_tokens(model.tokenizer, (*pair.clean, *other, lead.answer, lead.foil))
    senders, receivers = names_of(layout)
    return ComponentGraph(
        senders=senders,
        receivers=receivers,
        edge_sender=sender,
        edge_receiver=receiver,
        edge_pos=np.full_like(pos, -1) if work.summed else pos,
        edge_effect=work.scores[order],
        edge_measured=np.zeros(len(order), np.int64),
        edge_size=sizes,
        full_value=work.full,
        empty_value=work.empty,
        possible=layout.possible(positions),
        cancelled=work.cancelled,
        rebuild_error=max(one.runs.error for one in work.several),
        sizes=np.zeros(0, np.int64),
        kept=np.zeros(0, np.float32),
        random=np.zeros((0, work.options.draws), np.float32),
        removed=np.zeros(0, np.float32),
        tokens=known[: len(pair.clean)],
        other=known[len(pair.clean) : -2],
        answer=known[-2],
        foil=known[-1],
        ablation=work.options.ablation,
        score=work.options.score,
        positions=work.options.positions,
        pairs=len(work.several),
        passes=_passes(work),
    )
