"""Signed flow: what each direct path into the last state adds to one logit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from analysis.attribution.direct import LogitDirection, Target, target_of, uncapped
from analysis.contract import jobs
from analysis.contract.specs import resolve_index
from analysis.errors import SpecError
from analysis.flow_graph.mass_flow import root_positions
from analysis.flow_graph.results import LINK_KINDS, NODE_KINDS, Graph
from analysis.flow_graph.specs import FlowSpec
from analysis.model.handle import Model
from analysis.tracing.capture import Trace
from analysis.tracing.heads import has_heads, head_parts, other_parts
from analysis.tracing.storage import require_bytes

#: Kind, layer, head (-1 for none), source position.
_Path = tuple[str, int, int, int]
#: Bytes of one path with its node and its link, while the graph is made (tracemalloc: 346).
_PATH_BYTES = 400
#: Copies of the vectors of a layer's heads and sources: moved, weighted, and in the logit's scale.
_COPIES = 3


@dataclass
class _Paths:
    """Paths and what each adds, in logits."""

    names: list[_Path]
    logits: list[float]

    def add(self, kind: str, layer: int, head: int, source: int, logit: float) -> None:
        """Add a path, unless it adds no logits."""
        if logit != 0.0:
            self.names.append((kind, layer, head, source))
            self.logits.append(logit)


@torch.no_grad()
def signed(model: Model, trace: Trace, spec: FlowSpec) -> Graph:
    """The direct paths into the root's last state, each with what it adds to a logit.

    Source: direct logit attribution with the final norm's scale frozen, split by head and source
    position. Fields of the Graph: every link ends in the root; ``share`` and ``flow`` are logits,
    positive or negative; the root's flow is their sum, which is ``logit`` (before any soft cap) or
    the lead over the foil. The embedding is a residual link from row 0; the biases of final norm
    and unembedding are a bias link of the layer after the last. Pruned links are one "other" link,
    so the sum stays; ``hidden_share`` is its part of the sum of absolute values.

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``.
        spec: The root, token, foil and pruning.

    Raises:
        SpecError: If the root is not one state of the last row, a token does not exist, a layer's
            attention can't be split into heads, or an intervention edited a state on a path.
        NotEnoughMemoryError: If the paths do not fit in memory.
        CancelledError: If the caller's progress listener stops the work.
    """
    _require_memory(model, len(trace.tokens), root_of_logit(model, trace, spec) + 1)
    target = target_of(model, trace, root_of_logit(model, trace, spec), spec.token, spec.foil)
    position = target.position
    trace.require_sums(slice(None), position)
    direction = LogitDirection(model, trace, position, target.token, target.foil)
    paths = _Paths([], [])
    embedding = direction.of(torch.from_numpy(trace.resid[0, position]), 0)
    paths.add("residual", 0, -1, position, float(embedding))
    for layer in range(model.info.layers):
        jobs.step(layer, model.info.layers, "Following the direct paths")
        jobs.pause()
        _layer(model, trace, layer, position, direction, paths, spec)
    paths.add("bias", model.info.layers, -1, position, direction.bias)
    logit = float(target.of(uncapped(model, trace, position)))
    return _graph(paths, spec, model.info.layers, target, logit)


def _require_memory(model: Model, length: int, sources: int) -> None:
    """Refuse paths that do not fit: one for each layer, head and source, and one layer's vectors.

    Raises:
        NotEnoughMemoryError: With what is needed and what is free.
    """
    info = model.info
    paths = info.layers * (info.heads * sources + 4)
    vectors = _COPIES * info.heads * sources * info.d_model * 4
    pattern = info.heads * length**2 * 4
    require_bytes(
        f"A signed flow from {sources:,} positions",
        _PATH_BYTES * paths + vectors + pattern,
        "Choose an earlier position, or shorten the prompt.",
    )


def root_of_logit(model: Model, trace: Trace, spec: FlowSpec) -> int:
    """The root's position, where a graph explains a logit.

    Raises:
        SpecError: If the root is not one state of the last row.
    """
    layers = model.info.layers
    if resolve_index("Row", spec.row, layers + 1) != layers:
        raise SpecError(
            "A graph in logits starts at the last row: only there do states become logits.",
            "Choose the last row, or a method with shares.",
        )
    roots = root_positions(spec, len(trace.tokens))
    if len(roots) > 1:
        raise SpecError("A graph in logits explains one position.", "Choose one position.")
    return roots[0]


def _layer(
    model: Model, trace: Trace, layer: int, position: int, direction: LogitDirection,
    paths: _Paths, spec: FlowSpec,
) -> None:  # fmt: skip
    if has_heads(model, layer):
        parts = head_parts(model, trace, layer)
        table = direction.of(parts.sources(position), layer + 1)
        table = table if spec.per_head else table.sum(0, keepdim=True)
        for head, source in np.ndindex(*table.shape):
            number = head if spec.per_head else -1
            paths.add("attention", layer, number, source, float(table[head, source]))
        bias = parts.sourceless(torch.tensor([position]))[0]
        paths.add("bias", layer, -1, position, float(direction.of(bias, layer + 1)))
    elif model.stream.blocks[layer].heads:
        raise SpecError(
            f"The attention of layer {layer} can't be split into heads, as signed flow needs.",
            "Choose the method attention.",
        )
    others = other_parts(model, trace, layer)
    for kind, added in (("mlp", trace.mlp_out[layer]), *others.items()):
        logit = direction.of(torch.from_numpy(added[position]), layer + 1)
        paths.add(kind, layer, -1, position, float(logit))


def _kept(paths: _Paths, spec: FlowSpec) -> NDArray[np.bool_]:
    """Which paths are drawn: above the threshold, in ``top_k`` and within the budget."""
    sizes = np.abs(np.array(paths.logits))
    kept: NDArray[np.bool_] = sizes > spec.threshold * sizes.sum()
    order = np.argsort(-sizes, kind="stable")
    if spec.top_k is not None:
        seen: dict[int, int] = {}
        for place in order.tolist():
            kind, layer, *_ = paths.names[place]
            if kind == "attention":
                seen[layer] = seen.get(layer, 0) + 1
                kept[place] &= seen[layer] <= spec.top_k
    if spec.budget is not None and int(kept.sum()) > spec.budget:
        # One place is for the link that holds the rest.
        kept[[place for place in order.tolist() if kept[place]][spec.budget - 1 :]] = False
    return kept


def _graph(paths: _Paths, spec: FlowSpec, layers: int, target: Target, logit: float) -> Graph:
    position, kept = target.position, _kept(paths, spec)
    logits = np.array(paths.logits)
    names = [name for name, drawn in zip(paths.names, kept.tolist(), strict=True) if drawn]
    shares = logits[kept].tolist()
    if not kept.all():
        names.append(("other", 0, -1, position))
        shares.append(float(logits[~kept].sum()))
    keys = [_source(name) for name in names]
    nodes = {("block", layers, position): float(sum(shares))}
    for key, share in zip(keys, shares, strict=True):
        nodes[key] = nodes.get(key, 0.0) + share
    ordered = sorted(nodes, key=lambda key: (-key[1], NODE_KINDS.index(key[0]), key[2]))
    place = {key: number for number, key in enumerate(ordered)}
    size = np.abs(logits).sum()
    return Graph(
        position=position,
        row=layers,
        method=spec.choice.name,
        node_kind=np.array([NODE_KINDS.index(kind) for kind, _, _ in ordered], np.int64),
        node_depth=np.array([depth for _, depth, _ in ordered], np.int64),
        node_pos=np.array([pos for _, _, pos in ordered], np.int64),
        node_flow=np.array([nodes[key] for key in ordered], np.float32),
        link_kind=np.array([LINK_KINDS.index(kind) for kind, *_ in names], np.int64),
        link_layer=np.array([layer for _, layer, *_ in names], np.int64),
        link_head=np.array([head for *_, head, _ in names], np.int64),
        link_source=np.array([place[key] for key in keys], np.int64),
        link_target=np.full(len(keys), place["block", layers, position], np.int64),
        link_share=np.array(shares, np.float32),
        link_flow=np.array(shares, np.float32),
        hidden_share=float(np.abs(logits[~kept]).sum() / max(float(size), 1e-30)),
        terminal_share=0.0,
        fallback_nodes=np.zeros(0, np.int64),
        roots=(position,),
        token=target.token,
        foil=target.foil_id,
        logit=logit,
    )


def _source(name: _Path) -> tuple[str, int, int]:
    """The source node of a path: the state that a head reads, or the part's own node."""
    kind, layer, _, pos = name
    return ("block" if kind in ("attention", "residual") else kind, layer, pos)
