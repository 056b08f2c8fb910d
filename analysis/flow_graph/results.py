"""Results on a flow graph: the graph, its sinks and links, the causal check."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.contract.specs import Floats, Ints, Result, Token, check_shape

#: Parts of a block whose mass ends in them: their sources in the block are not followed.
ENDS = ("bias", "sink", "ssm", "per_layer_embedding", "whole_block")
LINK_KINDS = ("attention", "residual", "mlp", "bias", "sink", "other", *ENDS[2:])
NODE_KINDS = ("block", "mid", "mlp", "bias", "sink", "other", *ENDS[2:])


class Link(NamedTuple):
    """One way by which mass enters ``target``.

    Attributes:
        kind: One of LINK_KINDS.
        layer: The block it lies in.
        head: The attention head; None if it has none, or if heads are summed.
        source_pos: Token position it comes from.
        target_pos: Token position it goes to.
        source: Key of the node it comes from.
        target: Key of the node it goes to.
        share: Part of what enters ``target``, over ALL parts, before pruning; 0 to 1 (signed:
            logits). Of an "other" link: what enters by all links that a budget left out.
        flow: ``flow(target) * share``: part of the root's mass, 0 to 1. Upwards:
            ``flow(source) * share``: part of the target's mass that comes from the root this way.
            Signed: logits, as ``share``. Upwards an "other" link's flow is the part of the target's
            mass that comes from the root by cut links, to the target itself or to a node below it;
            it can be 0, or more than the share.
        measured: In an effect graph, whether the link was cut; else its effect is an estimate.
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
    measured: bool = False


class Node(NamedTuple):
    """A state, an MLP or a terminal part that mass passes through.

    Attributes:
        key: Its name in links: "block:ROW:POS", "mid:LAYER:POS", "mlp:LAYER:POS", ...
        kind: One of NODE_KINDS.
        row: The residual row of a block node; None for the others.
        layer: The layer of a node inside a block; None for block nodes.
        pos: Token position.
        flow: Part of the root's mass that reaches it by drawn links, 0 to 1. Upwards: part of its
            own mass that comes from the root by drawn links; of an "other" node, which holds
            parts of several states, the largest flow of its links.
    """

    key: str
    kind: str
    row: int | None
    layer: int | None
    pos: int
    flow: float


@dataclass(frozen=True, slots=True)
class Graph(Result):
    """A flow graph in columns; ``links`` and ``nodes`` give it as rows.

    Downwards the root's mass of 1 is followed to row 0. Upwards (``direction`` "up") a node's
    flow is the part of its own mass that comes from the root. In-shares of a node sum to 1, with
    two exceptions: without a budget, links cut by ``threshold`` or ``top_k`` are missing; and
    upwards, so are links from states that have no mass from the root. Within a budget an "other"
    link to each node holds both. Signed graphs (``method`` "signed") hold the direct paths into
    one state: shares and flows are logits, and all links, the "other" link of pruned ones
    included, sum to ``logit``. Effect graphs (``method`` "effect") hold what cutting each link does
    to a logit: shares and flows are effects in logits, which do not add up, and nodes have no flow.

    Attributes:
        position, row: The root; the first one if there are several.
        method: How shares were computed.
        node_kind: [node] index into NODE_KINDS.
        node_depth: [node] row of a block node, layer of the others.
        node_pos, node_flow: [node].
        link_kind: [link] index into LINK_KINDS.
        link_layer: [link].
        link_head: [link] -1 for none.
        link_source, link_target: [link] node numbers.
        link_share, link_flow: [link].
        hidden_share: Root mass that reaches row 0, or a drawn terminal part (bias, sink), by no
            drawn link. Shown + hidden = 1. Upwards: the part of the root's mass in the last row
            that comes by no drawn link. In logits: pruned part of the sum of absolute values.
        terminal_share: Drawn mass that ends in a part of ``ENDS``, such as a bias, not in row 0.
        fallback_nodes: [n] nodes where the method scored every part 0, so that norm shares replace
            them.
        direction: "down" or "up".
        roots: Positions of all roots.
        token, foil: The token and foil of a graph in logits; -1 for none.
        logit: The token's logit, or its lead over the foil: before any soft cap in a signed graph,
            the model's own in an effect graph. For the target "kl", minus the KL in nats. NaN for
            other methods.
        hidden_positions: Positions whose attention links were hidden (``hide_start``).
        sink_positions: Positions whose attention links were folded into sink links.
        reweighted: Whether shares were scaled so that those not hidden sum to 1.
        node_whole: [node] upwards, the part of each node's mass that comes from the root by all
            links, drawn or not; downwards ``node_flow``, or empty.
        link_measured: [link] in an effect graph, whether the link was cut; the others are
            estimates. Empty for other methods.
        baseline: In an effect graph, what replaces a component that is cut; else empty.
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
    link_measured: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    baseline: str = ""

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
        columns = zip(
            self.node_kind.tolist(), self.node_depth.tolist(), self.node_pos.tolist(),
            self.node_flow.tolist(), strict=True,
        )  # fmt: skip
        made = []
        for number, (kind, depth, pos, flow) in enumerate(columns):
            name = NODE_KINDS[kind]
            row, layer = (depth, None) if name == "block" else (None, depth)
            made.append(Node(self.node_key(number), name, row, layer, pos, flow))
        return tuple(made)

    @property
    def links(self) -> tuple[Link, ...]:
        """All drawn links, from the root downwards."""
        keys = [self.node_key(number) for number in range(len(self.node_kind))]
        pos = self.node_pos.tolist()
        measured = self.link_measured if self.method == "effect" else np.zeros(len(self.link_kind))
        columns = zip(
            self.link_kind.tolist(), self.link_layer.tolist(), self.link_head.tolist(),
            self.link_source.tolist(), self.link_target.tolist(), self.link_share.tolist(),
            self.link_flow.tolist(), measured.astype(bool).tolist(), strict=True,
        )  # fmt: skip
        return tuple(
            Link(
                LINK_KINDS[kind], layer, None if head < 0 else head, pos[source], pos[target],
                keys[source], keys[target], share, flow, cut,
            )
            for kind, layer, head, source, target, share, flow, cut in columns
        )  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """Nodes and links one by one instead of by columns."""
        columns = ("node_", "link_")
        plain = {one.name: getattr(self, one.name) for one in fields(self)}
        values = {name: value for name, value in plain.items() if not name.startswith(columns)}
        return {**values, "nodes": self.nodes, "links": self.links}

    @property
    def shown_share(self) -> float:
        """Root mass that the drawn links carry to row 0 or to a drawn bias or sink."""
        return float(np.clip(1.0 - self.hidden_share, 0.0, 1.0))


@dataclass(frozen=True, slots=True)
class Sinks(Result):
    """Attention sinks: positions with disproportionately much attention, or a massive norm.

    Attributes:
        positions: The sinks, ascending.
        received: [pos] mean attention of later positions to it, over layers and heads, 0 to 1;
            NaN at the last position.
        even: [pos] the same if all positions got equal attention.
        norm_ratio: [pos] largest norm of its state over the median of the same row.
        attention_mass: Part of all attention to other positions that goes to sinks, 0 to 1.
    """

    positions: tuple[int, ...]
    received: Floats
    even: Floats
    norm_ratio: Floats
    attention_mass: float

    def __post_init__(self) -> None:
        for name in ("even", "norm_ratio"):
            check_shape(name, getattr(self, name), self.received.shape)


@dataclass(frozen=True, slots=True)
class CausalCheck(Result):
    """Drawn links of one graph against the measured effect of cutting each.

    Attributes:
        method: Of the graph.
        position, token, foil: The logit that was measured; foil -1 for a plain logit.
        logit: Its value, or its lead over the foil, with nothing cut.
        kind: [link] index into LINK_KINDS (attention or mlp).
        layer: [link]. head: [link] -1 for all heads together.
        source_pos, target_pos: [link].
        share: [link] of what enters the link's target (signed: logits).
        flow: [link] as drawn: part of the root's mass (signed: logits).
        effect: [link] logit with nothing cut minus logit with the link cut.
        correlation: Spearman's, of drawn flow and absolute effect (signed: of both with their
            signs); NaN if fewer than three links were cut.
        without_cut: Drawn links that can't be cut: residual, biases, sinks, folded links, and
            those of position 0, which has only itself to attend to.
        unmeasured: Drawn links beyond the limit.
        passes: Forward passes, of several cuts each.
    """

    method: str
    position: int
    token: int
    foil: int
    logit: float
    kind: Ints
    layer: Ints
    head: Ints
    source_pos: Ints
    target_pos: Ints
    share: Floats
    flow: Floats
    effect: Floats
    correlation: float
    without_cut: int
    unmeasured: int
    passes: int

    def __post_init__(self) -> None:
        for name in ("layer", "head", "source_pos", "target_pos", "share", "flow", "effect"):
            check_shape(name, getattr(self, name), self.kind.shape)


@dataclass(frozen=True, slots=True)
class CausalComparison(Result):
    """Several methods against the same measured effects.

    Attributes:
        methods: [method] their names.
        correlations: [method] Spearman's, of drawn flow and absolute effect over all cuts.
        kind, layer, head, source_pos, target_pos: [cut] the links that were cut; head -1 for all
            heads together, and for MLPs.
        flow: [method, cut] the flow that each draws there, 0 for none.
        effect: [cut] logits.
        position, token, foil, logit: As in ``CausalCheck``.
    """

    methods: tuple[str, ...]
    correlations: Floats
    kind: Ints
    layer: Ints
    head: Ints
    source_pos: Ints
    target_pos: Ints
    flow: Floats
    effect: Floats
    position: int
    token: int
    foil: int
    logit: float

    def __post_init__(self) -> None:
        for name in ("layer", "head", "source_pos", "target_pos", "effect"):
            check_shape(name, getattr(self, name), self.kind.shape)
        check_shape("correlations", self.correlations, (len(self.methods),))
        check_shape("flow", self.flow, (len(self.methods), *self.kind.shape))


@dataclass(frozen=True, slots=True)
class LinkReading(Result):
    """One link's vector, read through the final norm with its scale frozen.

    Attributes:
        kind, layer, head, source_pos, target_pos: The link; head -1 for all heads together.
        norm: L2 norm of the vector it writes.
        share_of_norm: That norm over the norm of the state it writes to.
        promoted: [k] token ids whose logits it raises most. promoted_logits: [k] by how much.
        suppressed, suppressed_logits: [k] likewise, the lowest first.
        kl_source: KL(lens of the state it writes to || lens of the vector alone), nats.
        kl_without: KL(lens of the state it writes to || lens of that state less the vector), nats.
        vocabulary: Every token named above, by ascending id.
    """

    kind: str
    layer: int
    head: int
    source_pos: int
    target_pos: int
    norm: float
    share_of_norm: float
    promoted: Ints
    promoted_logits: Floats
    suppressed: Ints
    suppressed_logits: Floats
    kl_source: float
    kl_without: float
    vocabulary: tuple[Token, ...]

    def __post_init__(self) -> None:
        for name in ("promoted_logits", "suppressed", "suppressed_logits"):
            check_shape(name, getattr(self, name), self.promoted.shape)


@dataclass(frozen=True, slots=True)
class Neurons(Result):
    """The neurons of one MLP most responsible at one position.

    Attributes:
        layer, position: The MLP, and the position.
        token, foil: The logit; foil -1 for a plain logit.
        by: "logit" or "norm": the ranking.
        neuron: [n] their numbers, the most responsible first.
        activation: [n] the input of the down projection.
        logit: [n] activation times output direction: what each adds to the logit.
        norm: [n] L2 norm of the vector that each writes.
        tokens: [n, k] ids that this vector promotes most. token_logits: [n, k] by how much.
        total: What the whole MLP adds to the logit: all neurons, and ``bias``.
        bias: What its output bias (and a post-norm's) adds.
        size: The number of neurons.
        vocabulary: Every token named above, by ascending id.
    """

    layer: int
    position: int
    token: int
    foil: int
    by: str
    neuron: Ints
    activation: Floats
    logit: Floats
    norm: Floats
    tokens: Ints
    token_logits: Floats
    total: float
    bias: float
    size: int
    vocabulary: tuple[Token, ...]

    def __post_init__(self) -> None:
        for name in ("activation", "logit", "norm"):
            check_shape(name, getattr(self, name), self.neuron.shape)
        check_shape("tokens", self.tokens, (len(self.neuron), None))
        check_shape("token_logits", self.token_logits, self.tokens.shape)
