"""The flow graph: where a state's mass comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from analysis.results.base import Floats, Ints, check_shape

LINK_KINDS = ("attention", "residual", "mlp", "bias", "sink", "other")
NODE_KINDS = ("block", "mid", "mlp", "bias", "sink", "other")


class Link(NamedTuple):
    """One way by which mass enters ``target``.

    Attributes:
        kind: One of LINK_KINDS.
        layer: The block it lies in.
        head: The attention head; None where it has none, or where heads are summed.
        source_pos: Token position it comes from.
        target_pos: Token position it goes to.
        source: Key of the node it comes from.
        target: Key of the node it goes to.
        share: Part of what enters ``target``, over ALL parts, before pruning; 0 to 1 (signed:
            logits). Of an "other" link: what enters by all links that are not drawn for a budget.
        flow: ``flow(target) * share``: part of the root's mass, 0 to 1. Upwards:
            ``flow(source) * share``: part of the target's mass that comes from the root this way.
            Signed: logits, as ``share``. Upwards an "other" link's flow is the part of the target's
            mass that comes from the root by no drawn way: by links that were cut, to the target or
            to what it is made from. It may be more than the share, or nothing.
    """

    kind: str
    layer: int
    head: int | None
    source_pos: int
    target_pos: int
    source: str
    target: str
    share: float
    flow: float


class Node(NamedTuple):
    """A state, MLP or terminal part that mass passes through.

    Attributes:
        key: Its name in links: "block:ROW:POS", "mid:LAYER:POS", "mlp:LAYER:POS", ...
        kind: One of NODE_KINDS.
        row: The residual row of a block node; None for the others.
        layer: The layer of a node inside a block; None for block nodes.
        pos: Token position.
        flow: Part of the root's mass that reaches it by drawn links, 0 to 1. Upwards: part of its
            own mass that comes from the root by drawn links; of an "other" node, which stands for
            parts of several states, the largest of its links' flows.
    """

    key: str
    kind: str
    row: int | None
    layer: int | None
    pos: int
    flow: float


@dataclass(frozen=True, slots=True)
class Graph:
    """A flow graph in columns; ``links`` and ``nodes`` give it as rows.

    Downwards the root's mass of 1 is followed to row 0. Upwards (``direction`` "up") a node's
    flow is the part of its own mass that comes from the root. In-shares of a node sum to 1, with
    two exceptions: without a budget, what ``threshold`` or ``top_k`` cuts is in no link; and
    upwards links from states that have nothing of the root are in none either. Within a budget an
    "other" link to each node holds both. Signed graphs (``method`` "signed")
    hold the direct paths into one state: shares and flows are logits, and all links, the "other"
    link of what was pruned included, sum to ``logit``.

    Attributes:
        position, row: The root; the first of them where there are several.
        method: How shares were computed.
        node_kind: [node] index into NODE_KINDS.
        node_depth: [node] row of a block node, layer of the others.
        node_pos, node_flow: [node].
        link_kind: [link] index into LINK_KINDS.
        link_layer: [link].
        link_head: [link] -1 where there is none.
        link_source, link_target: [link] node numbers.
        link_share, link_flow: [link].
        hidden_share: Root mass that reaches row 0, or a drawn terminal part (bias, sink), by no
            drawn link. Shown + hidden = 1. Upwards: of the root's mass in all states of the last
            row, what no drawn link brings. Signed: pruned part of the sum of absolute logits.
        terminal_share: Drawn mass that ends in a bias or a sink instead of row 0.
        fallback_nodes: [n] nodes where every part's proximity was 0 and norm shares stand in.
        direction: "down" or "up".
        roots: Positions of all roots.
        token, foil: Whose logit a signed graph explains; -1 where there is none.
        logit: That logit before any soft cap, or difference; NaN for other methods.
        hidden_positions: Positions whose attention links were hidden (``hide_start``).
        sink_positions: Positions whose attention links were folded into sink links.
        reweighted: Whether shares were scaled so that those not hidden sum to 1.
        node_whole: [node] upwards, the part of each node's mass that comes from the root by all
            links, drawn or not; downwards and where it is not known, empty or ``node_flow``.
    """

    position: int
    row: int
    method: str
    node_kind: Ints
    node_depth: Ints
    node_pos: Ints
    node_flow: Floats
    link_kind: Ints
    link_layer: Ints
    link_head: Ints
    link_source: Ints
    link_target: Ints
    link_share: Floats
    link_flow: Floats
    hidden_share: float
    terminal_share: float
    fallback_nodes: Ints
    direction: str = "down"
    roots: tuple[int, ...] = ()
    token: int = -1
    foil: int = -1
    logit: float = float("nan")
    hidden_positions: tuple[int, ...] = ()
    sink_positions: tuple[int, ...] = ()
    reweighted: bool = False
    node_whole: Floats = field(default_factory=lambda: np.zeros(0, np.float32))

    def __post_init__(self) -> None:
        for name in ("node_depth", "node_pos", "node_flow"):
            check_shape(name, getattr(self, name), self.node_kind.shape)
        for name in ("layer", "head", "source", "target", "share", "flow"):
            check_shape(name, getattr(self, f"link_{name}"), self.link_kind.shape)

    def node_key(self, number: int) -> str:
        """The key of node ``number``."""
        kind = NODE_KINDS[int(self.node_kind[number])]
        return f"{kind}:{int(self.node_depth[number])}:{int(self.node_pos[number])}"

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes, the root first."""
        return tuple(self._node(number) for number in range(len(self.node_kind)))

    def _node(self, number: int) -> Node:
        kind = NODE_KINDS[int(self.node_kind[number])]
        depth = int(self.node_depth[number])
        row, layer = (depth, None) if kind == "block" else (None, depth)
        return Node(
            self.node_key(number),
            kind,
            row,
            layer,
            int(self.node_pos[number]),
            float(self.node_flow[number]),
        )

    @property
    def links(self) -> tuple[Link, ...]:
        """All drawn links, from the root downwards."""
        keys = [self.node_key(number) for number in range(len(self.node_kind))]
        columns = zip(
            self.link_kind.tolist(),
            self.link_layer.tolist(),
            self.link_head.tolist(),
            self.link_source.tolist(),
            self.link_target.tolist(),
            self.link_share.tolist(),
            self.link_flow.tolist(),
            strict=True,
        )
        pos = self.node_pos.tolist()
        return tuple(
            Link(
                LINK_KINDS[kind],
                layer,
                None if head < 0 else head,
                pos[source],
                pos[target],
                keys[source],
                keys[target],
                share,
                flow,
            )
            for kind, layer, head, source, target, share, flow in columns
        )

    @property
    def shown_share(self) -> float:
        """Root mass that the drawn links carry to row 0 or to a drawn bias or sink."""
        return float(np.clip(1.0 - self.hidden_share, 0.0, 1.0))
