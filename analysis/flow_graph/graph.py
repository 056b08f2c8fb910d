"""The flow graph of a state: its mass followed along the shares of a method."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from analysis.contract import jobs
from analysis.contract.specs import as_tuple, resolve_index
from analysis.errors import BackwardError, SpecError
from analysis.flow_graph.builder import GraphBuilder
from analysis.flow_graph.mass_flow import Hiding, hiding, root_positions
from analysis.flow_graph.methods import Shares, Step, attention_step, block_step
from analysis.flow_graph.options import SHARES
from analysis.flow_graph.results import Graph
from analysis.flow_graph.specs import FlowSpec
from analysis.model.handle import Model
from analysis.tracing.capture import Trace
from analysis.tracing.storage import require_bytes
from analysis.tracing.tokens import token_id

#: Parts (heads times positions times keys) held at once.
_MAX_PARTS = 1 << 18
#: Bytes of one link: seven columns of eight bytes, and its place in the order.
_LINK_BYTES = 64


def _require_memory(model: Model, trace: Trace, spec: FlowSpec, row: int, last: int) -> None:
    """Refuse a graph with more links than fit in memory; a budget drops links on the way.

    Raises:
        NotEnoughMemoryError: With what is needed and what is free.
    """
    if spec.budget is not None:
        return
    up = spec.direction == "up"
    nodes = len(trace.tokens) if up else last + 1
    each = (model.info.heads if spec.per_head else 1) * (nodes + 1) / 2
    if spec.threshold > 0.0:
        each = min(each, 1.0 / spec.threshold)
    each = each if spec.top_k is None else min(each, spec.top_k)
    layers = model.info.layers - row if up else row
    require_bytes(
        f"A graph of {nodes:,} positions and {layers} layers",
        int(_LINK_BYTES * layers * nodes * (each + 4)),
        "Set a budget, such as 300 links, a threshold or top_k.",
    )


@torch.no_grad()
def walk(model: Model, trace: Trace, spec: FlowSpec) -> Graph:
    """The graph of a method that divides states into shares.

    Raises:
        SpecError: If a root does not exist, or the attention can't be split into heads.
        NotEnoughMemoryError: If the graph may have more links than fit.
        CancelledError: If the caller's progress listener stops the work.
    """
    layers, size = model.info.layers, len(trace.tokens)
    row = resolve_index("Row", spec.row, layers + 1)
    roots = root_positions(spec, size)
    _require_memory(model, trace, spec, row, max(roots))
    builder = GraphBuilder(spec, layers, size, row, roots)
    sharing = _Sharing(model, trace, spec, hiding(trace, spec, roots))
    if spec.direction == "up":
        _up(sharing, builder)
    else:
        _down(sharing, builder)
    hidden = sharing.hiding
    return replace(
        builder.finish(),
        hidden_positions=hidden.hidden,
        sink_positions=hidden.folded,
        reweighted=bool(hidden.hidden) and hidden.reweight,
    )


@dataclass(frozen=True)
class _Sharing:
    """Shares of any states of one run, by one method."""

    model: Model
    trace: Trace
    spec: FlowSpec
    hiding: Hiding

    def blocks(self, layer: int, queries: NDArray[np.int64]) -> Shares:
        """Of outputs of sequential blocks."""
        step = block_step(self.model, self.trace, layer, torch.from_numpy(queries))
        return self._shares(step)

    def attention(self, layer: int, queries: NDArray[np.int64]) -> Shares:
        """Of mid residuals, or of outputs of parallel blocks."""
        vectors = self.spec.choice.vectors
        where = torch.from_numpy(queries)
        step = attention_step(self.model, self.trace, layer, where, vectors=vectors)
        return self.hiding.applied(self._shares(step), queries)

    def _shares(self, step: Step) -> Shares:
        found: Shares = self.spec.choice.load()(step)
        return replace(found, names=step.names)

    def chunks(self, queries: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """The positions, in pieces that fit in memory."""
        if not len(queries):
            return
        wide = max(self.model.info.heads, 1) * (int(queries[-1]) + 1)
        pieces = -(-len(queries) * wide // _MAX_PARTS)
        yield from np.array_split(queries, max(min(pieces, len(queries)), 1))


def _report(done: int, total: int, label: str) -> None:
    """Report progress, and let more urgent work run: a comparison walks once for every method."""
    jobs.step(done, total, label)
    jobs.pause()


def _down(sharing: _Sharing, builder: GraphBuilder) -> None:
    parallel = sharing.model.info.parallel_blocks
    for layer in range(builder.row - 1, -1, -1):
        done = builder.row - 1 - layer
        _report(done, builder.row, "Following the flow back")
        for queries in sharing.chunks(builder.carrying("block", layer + 1)):
            if parallel:
                builder.parallel_step(layer, queries, sharing.attention(layer, queries))
            else:
                builder.block_step(layer, queries, sharing.blocks(layer, queries))
            _report(done, builder.row, "Following the flow back")
        if not parallel:
            for queries in sharing.chunks(builder.carrying("mid", layer)):
                builder.mid_step(layer, queries, sharing.attention(layer, queries))
                _report(done, builder.row, "Following the flow back")
    _report(builder.row, max(builder.row, 1), "Following the flow back")


def _up(sharing: _Sharing, builder: GraphBuilder) -> None:
    """Any later position may be reached, so the shares of all of them are needed."""
    layers, start = builder.layers, builder.row
    if start == layers:
        raise SpecError(
            "Nothing lies above the last row.", "Start at a lower one, such as row 0, the tokens."
        )
    later = np.arange(min(builder.roots), builder.codes.size)
    for layer in range(start, layers):
        _report(layer - start, layers - start, "Following the flow up")
        for queries in sharing.chunks(later):
            shares = sharing.attention(layer, queries)
            if sharing.model.info.parallel_blocks:
                builder.parallel_step(layer, queries, shares)
            else:
                builder.mid_step(layer, queries, shares)
                builder.block_step(layer, queries, sharing.blocks(layer, queries))
    _report(layers - start, layers - start, "Following the flow up")


def compute(model: Model, trace: Trace, spec: FlowSpec) -> Graph:
    """The states that a state's mass comes from or, upwards, the states that it goes to.

    For a method in logits, what each link adds to a logit or does to it: see ``signed`` and
    ``effect``. With shares, only nodes that carry mass are divided downwards, each over all its
    parts, so shares are exact. Upwards the states of all later positions are divided, which costs
    as much as a whole run.

    ``FlowSpec.settled`` chooses the method of a spec without one. If the model then turns out to be
    unable to run backward, the method is "proximity".

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``.
        spec: Root, method, direction and pruning. ``threshold`` keeps links whose share is above
            it; ``top_k`` keeps the strongest attention links of each node; ``budget`` limits the
            number of links. Within a budget, each node has one "other" link for everything that
            enters it by links that are not drawn. So its in-shares sum to 1, and downwards the
            "other" links carry exactly ``hidden_share``. Without a budget, only ``hidden_share``
            counts the cut links.

    Returns:
        A Graph. Shares are over all parts before pruning; flow is the mass along drawn links.

    Raises:
        SpecError: If the root does not exist, or the attention can't be split into heads.
        NotEnoughMemoryError: If the graph may have more links than fit in memory.
        CancelledError: If the caller's progress listener stops the work.
    """
    trace.require_model(model)
    settled = spec.settled(model.info)
    if not settled.choice.signed:
        return walk(model, trace, settled)
    try:
        graph: Graph = settled.choice.load()(model, trace, settled)
    except BackwardError:
        if spec.method is not None or spec.explains_logit:
            raise
        return walk(model, trace, replace(settled, method=SHARES))
    return graph


def flow(
    model: Model, trace: Trace, *, position: int | Sequence[int] = -1, row: int | None = None,
    method: str | None = None, threshold: float = 0.0, top_k: int | None = None,
    budget: int | None = None, per_head: bool = True, token: int | str | None = None,
    foil: int | str | None = None, direction: str = "down", fold_sinks: bool = False,
    hide_start: str = "keep", target: str = "logit", baseline: str = "zero",
    prompts: Sequence[str] = (), exact: bool = False,
) -> Graph:  # fmt: skip
    """What the answer at a position depends on, what a state is made of, or where it goes.

    Unless a method is given, the graph says how much the answer's logit falls if a link is cut
    ("effect"). It says which parts the state is made of ("proximity") for a model that can't run
    backward, for several roots or one below the last row, and for an option that needs shares.

    Args:
        model: From ``load_model``.
        trace: From ``trace``.
        position: The root's position, or several of them.
        row: The root's residual row; the last one unless given, upwards row 0.
        method: What a link's width means: a name in ``options.FLOW_METHODS``, such as "effect"
            (what cutting a link does, in logits), "proximity" (information flow routes, arXiv
            2403.00824) or "signed" (direct paths, in logits). ``docs/reference.md`` lists all with
            formula and source.
        threshold: Keep links whose share is above it; in logits, of the sum of absolute values.
        top_k: At each node, keep this many of its strongest attention links.
        budget: Keep this many links, by flow; of shares, the rest is one "other" link to each node.
        per_head: One attention link for each head and source, or heads summed.
        token: In logits: the token whose logit is explained; the model's own top token unless
            given.
        foil: In logits: the token whose logit is subtracted.
        direction: "down" to the tokens, or "up" from the root to everything it reaches.
        fold_sinks: Whether attention to sinks ends in sink links (``mass_flow``).
        hide_start: "keep", or hide attention to a start token: "loss" counts its mass as hidden,
            "reweight" scales the other shares of each node.
        target: Effect only: "logit", or "kl" from the output of a second prompt.
        baseline: Effect only, what replaces an MLP's output that is cut: "zero", "mean" over the
            run's positions, "reference" (mean over ``prompts``), or "resample" (the same position
            of a second prompt, for attention edges too).
        prompts: Effect only: the texts of the baselines "reference" and "resample".
        exact: Effect only: measure instead of estimating. Every link is cut where that costs
            little (``cuts.all_cut``); else those whose cut changes a state much, and the MLPs at
            the root's position. That takes seconds; the estimates alone take one forward and one
            backward pass.

    Raises:
        SpecError: If an option has no such value, the root does not exist, or the model can't run
            the method.
    """
    options: dict[str, Any] = {
        "method": method, "threshold": threshold, "top_k": top_k, "budget": budget,
        "per_head": per_head, "token": token_id(model.tokenizer, token),
        "foil": token_id(model.tokenizer, foil), "direction": direction,
        "fold_sinks": fold_sinks, "hide_start": hide_start, "target": target,
        "baseline": baseline, "prompts": tuple(prompts), "exact": exact,
    }  # fmt: skip
    where = position if isinstance(position, int) else as_tuple(position)
    spec = FlowSpec.from_options(position=where, row=row, **options)
    return compute(model, trace, spec)
