"""Effect graphs: how much each attention edge and each MLP changes a logit when it is cut.

Attribution patching (Nanda 2023; AtP*, Kramár et al. 2024, arXiv 2403.00745) with the cut's own
difference. One backward pass gives the gradient g of the target for every head's mixed value
``z_i = sum_j a_ij v_j`` (before a gate, a norm or the output projection) and for every MLP's output
m. Cutting the edge j -> i before the softmax renormalises the row, so z_i changes by exactly
``a_ij / (1 - a_ij) · (z_i - v_j)``, and to first order the target falls by
``a_ij / (1 - a_ij) · g_i · (v_j - z_i)``. An MLP counts ``g · (m - baseline)``. Where a cut changes
much, the first order is far off, so these links are cut exactly: MLPs whose output, or its
difference from the baseline, is over half as long as the state it ends in; all MLPs at the root's
position; and edges whose cut changes the state by over 0.3 of its length. Where it costs little to
cut every link, every link is cut (ADR 46).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.attribution.direct import Target, target_of
from analysis.contract import jobs
from analysis.contract.specs import Floats, Ints
from analysis.flow_graph.cuts import (
    Baseline,
    Cut,
    all_cut,
    baseline_of,
    effects,
    plain_scale,
    positions_of,
)
from analysis.flow_graph.gradients import (
    ROUNDING,
    Gradients,
    edge_effects,
    gradients,
    seen_edges,
)
from analysis.flow_graph.mass_flow import LINK, NodeCodes
from analysis.flow_graph.results import Graph
from analysis.flow_graph.signed import root_of_logit
from analysis.flow_graph.specs import FlowSpec
from analysis.model.handle import Model
from analysis.tracing.capture import Trace
from analysis.tracing.heads import head_parts
from analysis.tracing.storage import require_bytes
from analysis.tracing.vocabulary import kl

#: A change is large if it is longer than this part of the state it ends in.
LARGE, LARGE_EDGE = 0.5, 0.3
#: A change of a logit that is smaller than this part of the largest logit can be rounding.
_NOISE = 1e-5
#: Links are pruned when there are more than this, ...
_MANY = 1 << 20
#: ... or at the end, if all must be known: then a link needs up to this many bytes.
_LINK_BYTES = 120


@dataclass(frozen=True, eq=False)
class KlTarget(Target):
    """Minus the KL of the run's output from the output of a second prompt, at one position."""

    log_probs: Tensor = field(default_factory=lambda: torch.zeros(0))

    def value(self, logits: Tensor) -> Tensor:
        """[...] from logits [..., vocab]."""
        own = torch.log_softmax(logits.double(), -1)
        return -kl(self.log_probs.to(own.device), own)


@dataclass
class _Links:
    """Columns of links, grown head by head; those that cannot be drawn are dropped on the way.

    Of the rules of ``_kept``, each only gets stricter as links are added, so a link that one drops
    now is not kept in the end. Links that are still to be measured are never dropped.

    Attributes:
        spec: The pruning.
        hidden: Sum of absolute effects of the dropped links.
    """

    spec: FlowSpec
    hidden: float = 0.0
    parts: list[tuple[Any, ...]] = field(default_factory=list)
    count: int = 0
    limit: int = field(default_factory=lambda: _MANY)

    def add(
        self, kind: str, layer: int, heads: Ints, sources: Ints, targets: Ints, effect: Floats
    ) -> None:
        """Add links of one kind and layer."""
        size, marks = np.full(len(effect), 0), np.zeros(len(effect), bool)
        self.parts.append((size + LINK[kind], size + layer, heads, sources, targets, effect, marks))
        self.count += len(effect)
        if self.count > self.limit and not self.spec.exact:
            columns = self.prune(self.columns())
            self.parts, self.count = [tuple(columns)], len(columns[0])
            self.limit = max(_MANY, 2 * self.count)

    def columns(self) -> list[Any]:
        """kind, layer, head, source position, target position, effect, measured."""
        return [np.concatenate(column) for column in zip(*self.parts, strict=True)]

    def prune(self, columns: list[Any]) -> list[Any]:
        """The columns of the links that may be drawn; the effects of the others are hidden."""
        kind, layer, _, _, end, effect, _ = columns
        size = np.abs(effect).astype(np.float64)
        kept = _kept(kind, layer, end, size, self.spec, self.hidden + float(size.sum()))
        self.hidden += float(size[~kept].sum())
        return [one[kept] for one in columns]


def effect(model: Model, run: Trace, spec: FlowSpec) -> Graph:
    """The effect of cutting each attention edge and each MLP on one logit.

    How the Graph's fields read here: ``share`` and ``flow`` of a link are its effect, the target
    with nothing cut minus the target with the link cut. They are estimates, except where
    ``link_measured`` says that the link was cut. Effects do not add up to the target, and nodes
    have no flow of their own. ``hidden_share`` is the part of the sum of absolute effects that
    pruning left out; ``logit`` is the target with nothing cut, after any soft cap.

    Args:
        model: The model the run was made with.
        run: From ``analysis.trace``.
        spec: The root, target, baseline and pruning.

    Raises:
        SpecError: If the root is not one state of the last row, a token does not exist, the model
            can't run backward, or a layer's attention can't be split into heads.
        CancelledError: If the caller's progress listener stops the work.
    """
    jobs.step(0, 2, "Running forward and backward")
    target, baseline = objective(model, run, spec)
    _require_memory(model, positions_of(run, target), spec)
    found = gradients(model, run, target)
    jobs.step(2, 2, "Running forward and backward")
    jobs.pause()
    links = _Links(spec)
    for layer, gradient in found.mixed.items():
        tables = edge_effects(run, layer, gradient, baseline.other)
        seen = seen_edges(run, layer, gradient, baseline.other)
        _add_edges(links, layer, tables, seen)
    _add_mlps(links, model, found, baseline)
    columns = links.columns()
    if spec.exact:
        _measure(columns, model, run, spec, target, baseline)
    columns = links.prune(columns)
    total = links.hidden + float(np.abs(columns[5]).astype(np.float64).sum())
    logit = float(target.of(run.logits)[target.position])
    return _graph(columns, model, spec, target, logit, links.hidden / max(total, 1e-30))


def _require_memory(model: Model, size: int, spec: FlowSpec) -> None:
    """Refuse a graph that needs every link at once, if all links do not fit.

    Raises:
        NotEnoughMemoryError: With what is needed and what is free.
    """
    pruned = spec.threshold > 0.0 or spec.top_k is not None or spec.budget is not None
    if spec.exact or not pruned:
        heads = (
            sum(block.heads or 0 for block in model.stream.blocks)
            if spec.per_head
            else (model.info.layers)
        )
        require_bytes(
            f"A graph of all links of {size:,} tokens",
            heads * size * (size + 1) // 2 * _LINK_BYTES,
            "Shorten the prompt, or choose a budget and estimates alone (exact=False).",
        )


def objective(model: Model, run: Trace, spec: FlowSpec) -> tuple[Target, Baseline]:
    """What an effect graph measures, and what replaces the components that are cut.

    Raises:
        SpecError: If the root is not one state of the last row, a token does not exist, or the
            second prompt has too few tokens.
    """
    run.require_model(model)
    target = target_of(model, run, root_of_logit(model, run, spec), spec.token, spec.foil)
    baseline = baseline_of(model, run, positions_of(run, target), spec.baseline, spec.prompts)
    if spec.target == "kl":
        assert baseline.other is not None  # noqa: S101 - the spec demands a second prompt
        logits = torch.from_numpy(baseline.other.logits[target.position]).double()
        target = KlTarget(target.position, -1, log_probs=torch.log_softmax(logits, -1))
    return target, baseline


def _add_edges(links: _Links, layer: int, tables: Iterable[Tensor], seen: Iterable[Tensor]) -> None:
    """Attention edges [query, key] of each head, heads summed unless the spec keeps them apart.

    Edges whose estimate is 0 are kept to be measured, where the spec asks for that.
    """
    named: Iterable[tuple[int, Any]] = enumerate(zip(tables, seen, strict=True))
    if not links.spec.per_head:
        named = [(-1, (sum(tables, torch.zeros(())), reduce(torch.logical_or, seen)))]
    for head, (table, weighs) in named:
        query, key = np.nonzero((weighs if links.spec.exact else table).numpy())
        effect = table.numpy()[query, key]
        links.add("attention", layer, np.full_like(query, head), key, query, effect)


def _add_mlps(links: _Links, model: Model, found: Gradients, baseline: Baseline) -> None:
    """Estimates of all MLPs."""
    (layers, size), blocks = found.removed.shape, model.stream.blocks
    added = torch.from_numpy(np.ascontiguousarray(baseline.mlp))
    scaled = [added[n] / plain_scale(block.mlp_scale) for n, block in enumerate(blocks)]
    effect: Floats = (found.removed - (found.mlp * torch.stack(scaled)).sum(-1)).numpy()
    positions, heads = np.arange(size), np.full(size, -1)
    for layer in range(layers):
        links.add("mlp", layer, heads, positions, positions, effect[layer])


def _measure(
    columns: list[Any],
    model: Model,
    run: Trace,
    spec: FlowSpec,
    target: Target,
    baseline: Baseline,
) -> None:
    """Cut all links, or those that are badly estimated, and put what is measured into columns."""
    kind, layer, head, source, end, effect, measured = columns
    attends = kind == LINK["attention"]
    # The gradient of a saturated path is 0. In the last block, only the root's position counts.
    reaches = (end == target.position) | ((layer < model.info.layers - 1) & (end < target.position))
    chosen = np.flatnonzero((effect != 0.0) | reaches)
    if not all_cut(model, len(chosen), positions_of(run, target)):
        chosen = chosen[_chosen_by_rule(columns, model, run, spec, target, baseline)[chosen]]
    cuts = [
        Cut("attention" if attends[n] else "mlp", *map(int, (layer[n], head[n], source[n], end[n])))
        for n in chosen
    ]
    if cuts:
        found = effects(model, run, cuts, target, baseline)[0]
        rounding = _NOISE * float(np.abs(run.logits[target.position]).max())
        none = (effect[chosen] == 0.0) & (np.abs(found) <= rounding)
        effect[chosen] = np.where(none, 0.0, found)
    measured[chosen] = True


def _chosen_by_rule(
    columns: list[Any],
    model: Model,
    run: Trace,
    spec: FlowSpec,
    target: Target,
    baseline: Baseline,
) -> NDArray[np.bool_]:
    """[link] the links that are badly estimated, as far as a rule can tell before any is cut."""
    kind, layer, head, source, end = columns[:5]
    attends = kind == LINK["attention"]
    large: NDArray[np.bool_] = badly_estimated(run, target.position, baseline)[layer, end]
    large &= ~attends
    for number in np.unique(layer[attends]).tolist():
        edges = np.flatnonzero(attends & (layer == number) & (end > 0))
        found = large_edges(model, run, number, baseline, per_head=spec.per_head)
        large[edges] = found[np.maximum(head[edges], 0), end[edges], source[edges]]
    return large


def badly_estimated(run: Trace, position: int, baseline: Baseline) -> NDArray[np.bool_]:
    """[layer, pos] the MLPs that are cut exactly: their change is large, or all of it is read.

    An output is large if it, or its difference from the baseline, is over ``LARGE`` times as long
    as the state it ends in. At the root's position the final norm and every later MLP read it,
    each with a curve of its own.

    Args:
        run: From ``analysis.trace``.
        position: The root's position.
        baseline: The replacements.
    """
    size = baseline.mlp.shape[1]
    output, whole = run.mlp_out[:, :size], np.linalg.norm(run.resid[1:, :size], axis=-1)
    length = np.linalg.norm(output, axis=-1)
    change = np.linalg.norm(output - baseline.mlp, axis=-1)
    found: NDArray[np.bool_] = np.maximum(length, change) > LARGE * whole
    found[:, position] = True
    return found


def large_edges(
    model: Model, run: Trace, layer: int, baseline: Baseline, *, per_head: bool
) -> NDArray[np.bool_]:
    """[head, query, key] the edges that are cut exactly: their cut changes much.

    It moves the state that attention writes to (the mid residual, in a parallel block its output)
    by over ``LARGE_EDGE`` of the state's length. Without ``per_head`` an edge is cut in all heads
    at once, and there is one head.

    Args:
        model: The model the run was made with.
        run: From ``analysis.trace``.
        layer: A layer whose attention can be split into heads.
        baseline: The replacements.
        per_head: Whether each head is cut on its own.
    """
    size = baseline.mlp.shape[1]
    whole = run.resid[layer + 1] if model.info.parallel_blocks else run.middle(layer)
    limit = LARGE_EDGE * torch.from_numpy(np.linalg.norm(whole, axis=-1))
    kept = head_parts(model, run, layer).pattern[:, :size, :size]
    vectors = _edge_vectors(model, run, layer, size)
    others = None if baseline.other is None else _edge_vectors(model, baseline.other, layer, size)
    found = torch.zeros(len(kept) if per_head else 1, size, size, dtype=torch.bool)
    for query, moved in enumerate(vectors):
        if others is not None:
            change = moved - next(others)
        else:
            weight = kept[:, query, : query + 1, None]
            rest = (1.0 - weight).clamp_min(ROUNDING)
            change = (moved - weight * moved.sum(1, keepdim=True)) / rest
        length = (change if per_head else change.sum(0, keepdim=True)).norm(dim=-1)
        found[:, query, : query + 1] = length > limit[query]
    return found.numpy()


def _edge_vectors(model: Model, run: Trace, layer: int, size: int) -> Iterator[Tensor]:
    """For each query, [head, key, d_model] what each head adds from each position."""
    query = 0
    for weights, moved in head_parts(model, run, layer).factors(torch.arange(size)):
        for weight in weights.unbind(1):
            query += 1
            yield weight[:, :query, None] * moved[:, :query]


def _graph(
    columns: list[Any], model: Model, spec: FlowSpec, target: Target, logit: float, hidden: float
) -> Graph:
    kind, layer, head, source, end, effect, measured = columns
    layers, attends = model.info.layers, kind == LINK["attention"]
    codes = NodeCodes(layers + 1, int(max(end.max(initial=0), target.position)) + 1)
    starts = np.where(attends, codes.of("block", 0, source), codes.of("mlp", 0, source))
    joins = attends & (not model.info.parallel_blocks)
    ends = np.where(joins, codes.of("mid", 0, end), codes.of("block", 1, end))
    starts, ends = starts + layer * codes.size, ends + layer * codes.size
    nodes, number = _numbered(codes, starts, ends, codes.of("block", layers, target.position))
    node_kind, depth, pos = codes.split(nodes)
    return Graph(
        position=target.position,
        row=layers,
        method=spec.choice.name,
        node_kind=node_kind,
        node_depth=depth,
        node_pos=pos,
        node_flow=np.zeros(len(nodes), np.float32),
        link_kind=kind,
        link_layer=layer,
        link_head=head,
        link_source=number[starts],
        link_target=number[ends],
        link_share=effect.astype(np.float32),
        link_flow=effect.astype(np.float32),
        hidden_share=hidden,
        terminal_share=0.0,
        fallback_nodes=np.zeros(0, np.int64),
        roots=(target.position,),
        token=target.token,
        foil=target.foil_id,
        logit=logit,
        link_measured=measured,
        baseline=spec.baseline,
    )


def _numbered(codes: NodeCodes, starts: Ints, ends: Ints, root: Ints) -> tuple[Ints, Ints]:
    """The codes of all nodes in order, and the number of each code."""
    nodes = codes.ordered(np.concatenate([starts, ends, np.atleast_1d(root)]))
    number = np.zeros(codes.count, np.int64)
    number[nodes] = np.arange(len(nodes))
    return nodes, number


def _kept(
    kind: Ints, layer: Ints, end: Ints, size: NDArray[np.float64], spec: FlowSpec, total: float
) -> NDArray[np.bool_]:
    """Which links are kept: above the threshold, in each state's ``top_k``, within the budget."""
    kept: NDArray[np.bool_] = (size > 0.0) & (size > spec.threshold * total)
    if spec.top_k is not None:
        attends = np.flatnonzero(kept & (kind == LINK["attention"]))
        order = attends[np.lexsort((-size[attends], end[attends], layer[attends]))]
        new = np.ones(len(order), bool)
        new[1:] = (np.diff(layer[order]) != 0) | (np.diff(end[order]) != 0)
        first = np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
        kept[order[np.arange(len(order)) - first >= spec.top_k]] = False
    if spec.budget is not None and int(kept.sum()) > spec.budget:
        places = np.flatnonzero(kept)
        order = np.argsort(-size[places], kind="stable")
        kept[places[order[spec.budget :]]] = False
    return kept
