"""Finish a flow that was followed: cut it to the budget, state the rest, give it in columns."""

from __future__ import annotations

import numpy as np

from analysis.flow_codes import LINK, NODE, Whole
from analysis.flow_stages import COLUMNS, Followed, Stage
from analysis.results import Graph
from analysis.results.base import Floats

#: Shares up to this that no link carries are rounding.
_ROUNDING = 1e-6


def within_budget(flow: Followed) -> None:
    """Cut for good, and follow the mass again by what is left.

    What a node gets by links that were cut is one "other" link to it. Those count too, so as
    many of the largest links are kept as leave room for them.
    """
    budget = flow.spec.budget
    if budget is None or not flow.stages:
        return
    flow.cut(budget)
    known = flow.stages
    low, high = 0, budget  # links kept: without any, one "other" link to each root
    while low < high:
        middle = (low + high + 1) // 2
        fits = flow.follow(known, middle) + len(_others(flow).flow) <= budget
        low, high = (middle, high) if fits else (low, middle - 1)
    kept = flow.follow(known, low)
    others = _others(flow)
    others = others.only(np.arange(len(others.flow)) < budget - kept)
    if len(others.flow):
        flow.stages.append(others)
        # Upwards flows are parts of different states' masses, which have no sum.
        joined = np.maximum if flow.up else np.add
        joined.at(flow.mass, others.source, others.flow)


def _others(flow: Followed) -> Stage:
    """A link to each node for all that enters it by no kept link: so in-shares sum to 1.

    Downwards it carries the rest of the node's mass. Upwards it carries what the node has from
    the root by no drawn way: by links that were cut, to it or to what it is made from.
    """
    entered, share = np.zeros(flow.codes.count), np.zeros(flow.codes.count)
    for stage in flow.stages:
        np.add.at(entered, stage.target, stage.flow)
        np.add.at(share, stage.target, stage.share)
    rest = np.maximum(1.0 - share, 0.0)
    carried = np.maximum(flow.reach - entered, 0.0) if flow.up else rest * flow.mass
    kind, depth, pos = flow.codes.split(np.arange(flow.codes.count))
    block = kind == NODE["block"]
    inside = block | (kind == NODE["mid"]) | (kind == NODE["mlp"])
    ends = block & (depth == (flow.row if flow.up else 0))
    lacking = (rest > _ROUNDING) | ((carried > _ROUNDING) & flow.up)
    nodes = np.flatnonzero((flow.mass > 0.0) & inside & ~ends & lacking)
    layer = (depth - block)[nodes]
    source = flow.codes.of("other", 0, pos[nodes]) + layer * flow.codes.size
    size = np.zeros(len(nodes), np.int64)
    return Stage(size + LINK["other"], layer, size - 1, source, nodes, rest[nodes], carried[nodes])


def columns(flow: Followed) -> Graph:
    """The graph: nodes and links, numbered, with what is hidden and where mass ends."""
    empty = np.zeros(0, np.int64)
    links = {
        name: np.concatenate([empty, *(getattr(stage, name) for stage in flow.stages)])
        for name in COLUMNS
    }
    roots = flow.codes.of("block", flow.row, np.array(flow.roots))
    nodes = flow.codes.ordered(np.concatenate([links["source"], links["target"], roots]))
    place = np.zeros(flow.codes.count, np.int64)
    place[nodes] = np.arange(len(nodes))
    kind, depth, pos = flow.codes.split(nodes)
    fallback = np.intersect1d(np.concatenate([empty, *flow.fallback]), nodes)
    return Graph(
        position=flow.roots[0],
        row=flow.row,
        method=flow.spec.method,
        node_kind=kind,
        node_depth=depth,
        node_pos=pos,
        node_flow=flow.mass[nodes].astype(np.float32),
        link_kind=links["kind"].astype(np.int64),
        link_layer=links["layer"].astype(np.int64),
        link_head=links["head"].astype(np.int64),
        link_source=place[links["source"].astype(np.int64)],
        link_target=place[links["target"].astype(np.int64)],
        link_share=links["share"].astype(np.float32),
        link_flow=links["flow"].astype(np.float32),
        hidden_share=_hidden(flow),
        terminal_share=0.0 if flow.up else _ended(flow),
        fallback_nodes=place[fallback],
        direction=flow.spec.direction,
        roots=flow.roots,
        node_whole=_whole(flow, nodes),
    )


def _whole(flow: Followed, nodes: Whole) -> Floats:
    """The root's part of each node by all links; downwards that is its flow."""
    found: Floats = (flow.reach if flow.up else flow.mass)[nodes].astype(np.float32)
    return found


def _ended(flow: Followed) -> float:
    codes = [
        flow.codes.of(kind, layer, np.arange(flow.codes.size))
        for kind in ("bias", "sink")
        for layer in range(flow.layers)
    ]
    return float(flow.mass[np.concatenate(codes)].sum())


def _hidden(flow: Followed) -> float:
    positions = np.arange(flow.codes.size)
    if flow.up:
        last = flow.codes.of("block", flow.layers, positions)
        whole = float(flow.reach[last].sum())
        drawn = float(flow.mass[last].sum())
        return max(1.0 - drawn / whole, 0.0) if whole > 0.0 else 0.0
    arrived = float(flow.mass[flow.codes.of("block", 0, positions)].sum())
    return max(1.0 - arrived - _ended(flow), 0.0)
