"""How the flow into the same place of two runs of equal length differs.

Flow is walked back from the last state without pruning, so both graphs are whole: what passes
through the states of a row, MLPs and biases aside, can be held against each other row by row, and
every link of one against the same link of the other.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from analysis import progress
from analysis.capture import Trace
from analysis.errors import SpecError
from analysis.models.handle import Model
from analysis.results import LINK_KINDS, NODE_KINDS, Graph
from analysis.results.base import Floats
from analysis.results.failures import FlowChange
from analysis.specs import FlowMethod, FlowSpec
from analysis.techniques import flow

#: Links that are reported, those that differ most.
MOST = 24

Key = tuple[str, int, int, int, int]


def compare(
    model: Model, right: Trace, wrong: Trace, method: FlowMethod = "proximity"
) -> FlowChange | None:
    """Hold the flow into the last state of two runs against each other.

    Args:
        model: The model that both were made with.
        right: One run.
        wrong: The other, of equal length.
        method: How shares are computed; not "signed".

    Returns:
        None where the model's heads can't be told apart.
    """
    try:
        graphs = []
        for one in (right, wrong):
            graphs.append(flow.compute(model, one, FlowSpec(method=method)))
            progress.pause()
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
    apart = (0.5 * np.abs(mass - other).sum(1)).astype(np.float32)
    kinds = tuple(key[0] for key in strongest)
    return FlowChange(
        method, mass, other, apart, kinds, layers, heads, sources, targets, flow_right, flow_wrong
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
    into_mlp = graph.node_kind[graph.link_target] == NODE_KINDS.index("mlp")  # counted as it leaves
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
    """The links whose flow differs most, residual ones aside: they follow from the others."""
    keys = [key for key in one.keys() | other.keys() if key[0] != "residual"]
    keys.sort(key=lambda key: (-abs(one.get(key, 0.0) - other.get(key, 0.0)), key))
    return keys[:MOST]
