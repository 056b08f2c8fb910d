"""Small synthetic results, for tests of figures."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from analysis.attribution.specs import Attribution
from analysis.contract.specs import ModelInfo, Token
from analysis.flow_graph.results import LINK_KINDS, NODE_KINDS, Graph
from analysis.lens.results import Grid
from analysis.tracing.specs import PatternResult, RunResult
from analysis.trajectory.specs import Story

WORDS = (" the", " Paris", "<b>x</b>", "</a>", "\n", " supercalifragilistic", "日本", "مرحبا", "🙂")
WORDS += ("&amp;", "$x$", " of", ".", "12", " B", "ing")


def token(number: int) -> Token:
    """One of a few tokens with difficult texts."""
    text = WORDS[number % len(WORDS)]
    return Token(number, text, text.replace(" ", "Ġ"), text.encode().hex())


def info(layers: int = 4, heads: int = 8) -> ModelInfo:
    """A model's description."""
    return ModelInfo(
        "tiny", "llama", layers, heads, heads, 32, 4, 64, 512, 1000, True, False, "RMSNorm",
        "float32", "cpu", "made here", "1", "f",
    )  # fmt: skip


def run_result(layers: int, tokens: int) -> RunResult:
    """A run of ``tokens`` tokens, the last two of them generated."""
    vocabulary = tuple(token(number) for number in range(len(WORDS)))
    ids = np.arange(tokens)[:, None] % len(WORDS) + np.zeros((1, 1), dtype=np.int64)
    return RunResult(
        info(layers),
        tuple(token(number % len(WORDS)) for number in range(tokens)),
        tokens - 2,
        ids,
        np.full(ids.shape, 0.5, np.float32),
        np.full(tokens, 0.25, np.float32),
        np.zeros(tokens, np.int64),
        np.full(tokens, 1.0, np.float32),
        vocabulary,
    )


def grid(layers: int, tokens: int, k: int = 5) -> Grid:
    """A grid whose probabilities rise with the rows; two target tokens."""
    random = np.random.default_rng(7)
    rows = layers + 1
    ids = random.integers(0, len(WORDS), (rows, tokens, k))
    height = np.linspace(0.02, 0.9, rows)[:, None, None]
    falling = 0.5 ** np.arange(k)
    probs = (height * falling * random.uniform(0.4, 1, (rows, tokens, 1))).astype(np.float32)
    cells = (rows, tokens)
    return Grid(
        np.arange(rows),
        np.arange(tokens),
        ids,
        probs,
        np.log(probs),
        (5 * (1 - probs[..., 0])).astype(np.float32),
        (3 * (1 - probs[..., 0])).astype(np.float32),
        np.array([1, 3]),
        np.stack([probs[..., 0], probs[..., 0] / 3], axis=-1).astype(np.float32),
        np.stack([np.zeros(cells, np.int64), np.full(cells, 40)], axis=-1),
        np.zeros(cells, np.int64),
        np.full(ids.shape, np.nan, np.float32),
        False,
        tuple(token(number) for number in range(len(WORDS))),
    )


def pattern(tokens: int, heads: int = 8, layer: int = 1) -> PatternResult:
    """Random causal patterns; head 0 gives a tenth of its mass to a sink."""
    random = np.random.default_rng(3)
    scores = random.normal(0, 2, (heads, tokens, tokens))
    scores[:, np.triu(np.ones((tokens, tokens), dtype=bool), 1)] = -np.inf
    weights = np.exp(scores)
    weights /= weights.sum(-1, keepdims=True)
    sink = np.zeros((heads, tokens), np.float32)
    sink[0], weights[0] = 0.1, weights[0] * 0.9
    norms = random.uniform(0.1, 1, (heads, tokens)).astype(np.float32)
    return PatternResult(layer, weights.astype(np.float32), sink, norms, norms / norms.sum(0))


@lru_cache
def graph(layers: int, tokens: int, heads: int = 2, seed: int = 5) -> Graph:
    """A flow graph that keeps all mass: residual 0.8, attention the rest, MLP 0.2 of a block."""
    return GraphMaker(layers, tokens, heads, seed).made()


def upward(graph: Graph, pos: int) -> Graph:
    """The same shares followed up from the token at ``pos``, link by link."""
    reach = np.zeros(len(graph.node_kind))
    at = (graph.node_kind == NODE_KINDS.index("block")) & (graph.node_depth == 0)
    reach[at & (graph.node_pos == pos)] = 1.0
    flows = np.zeros(len(graph.link_kind))
    order = {"block": 0.0, "mid": 0.3, "mlp": 0.6}
    level = graph.node_depth + np.array([order[NODE_KINDS[kind]] for kind in graph.node_kind])
    for source in np.argsort(level, kind="stable"):
        for link in np.flatnonzero(graph.link_source == source):
            flows[link] = reach[source] * graph.link_share[link]
            reach[graph.link_target[link]] += flows[link]
    found = reach.astype(np.float32)
    return replace(
        graph, direction="up", row=0, position=pos, roots=(pos,), node_flow=found,
        node_whole=found, link_flow=flows.astype(np.float32),
    )  # fmt: skip


class GraphMaker:
    """Builds a graph from the root down, in the order of ``analysis.flow``."""

    def __init__(self, layers: int, tokens: int, heads: int, seed: int) -> None:
        self.root = (layers, tokens - 1)
        self.heads = heads
        self.random = np.random.default_rng(seed)
        self.numbers: dict[tuple[str, int, int], int] = {}
        self.flow: list[float] = []
        self.keys: list[tuple[str, int, int]] = []
        self.links: list[tuple[str, int, int, int, int, float, float]] = []
        self.flow_of("block", layers, tokens - 1, 1.0)

    def flow_of(self, kind: str, depth: int, pos: int, more: float) -> int:
        """The number of a node, with ``more`` mass added to it."""
        number = self.numbers.setdefault((kind, depth, pos), len(self.flow))
        if number == len(self.flow):
            self.flow.append(0.0)
            self.keys.append((kind, depth, pos))
        self.flow[number] += more
        return number

    def link(
        self, kind: str, head: int, source: tuple[str, int, int], target: int, share: float
    ) -> int:
        """Add a link and its mass."""
        mass = self.flow[target] * share
        number = self.flow_of(*source, mass)
        layer = self.keys[target][1]
        self.links.append((kind, layer, head, number, target, share, mass))
        return number

    def step(self, row: int, pos: int) -> None:
        """All parts of one block output."""
        layer = row - 1
        block = self.numbers["block", row, pos]
        mid = self.link("residual", -1, ("mid", layer, pos), block, 0.8)
        mlp = self.link("mlp", -1, ("mlp", layer, pos), block, 0.2)
        self.link("mlp", -1, ("mid", layer, pos), mlp, 1.0)
        self.link("residual", -1, ("block", layer, pos), mid, 0.8)
        weights = self.random.dirichlet(np.full(self.heads * (pos + 1), 0.3))
        for index, share in enumerate((0.2 * weights).tolist()):
            head, source = divmod(index, pos + 1)
            self.link("attention", head, ("block", layer, source), mid, share)

    def made(self) -> Graph:
        """The finished graph."""
        for row in range(self.root[0], 0, -1):
            reached = sorted(key[2] for key in self.numbers if key[:2] == ("block", row))
            for pos in reached:
                self.step(row, pos)
        kinds, layers, heads, sources, targets, shares, masses = zip(*self.links, strict=True)
        keys = list(self.numbers)
        return Graph(
            position=self.root[1],
            row=self.root[0],
            method="proximity",
            node_kind=np.array([NODE_KINDS.index(key[0]) for key in keys]),
            node_depth=np.array([key[1] for key in keys]),
            node_pos=np.array([key[2] for key in keys]),
            node_flow=np.array(self.flow, np.float32),
            link_kind=np.array([LINK_KINDS.index(kind) for kind in kinds]),
            link_layer=np.array(layers),
            link_head=np.array(heads),
            link_source=np.array(sources),
            link_target=np.array(targets),
            link_share=np.array(shares, np.float32),
            link_flow=np.array(masses, np.float32),
            hidden_share=0.0,
            terminal_share=0.0,
            fallback_nodes=np.array([], np.int64),
        )


def story(layers: int, tokens: int, **changes: Any) -> Story:
    """The story of token 1 at the last prompt position."""
    heads = np.zeros((layers, 8), np.float32)
    attribution = Attribution(
        tokens - 3, 1, None, 0.0, heads, np.zeros(layers, np.float32),
        np.zeros(layers, np.float32), 0.0, 0.0,
    )  # fmt: skip
    values: dict[str, Any] = {
        "position": tokens - 3,
        "token": token(1),
        "prob": 0.62,
        "first_top1": layers - 3,
        "emergence": layers - 1,
        "saturation": layers - 1,
        "step_layer": layers - 2,
        "step_head": 3,
        "step_logit": 2.13,
        "step_source": 1,
        "attribution": attribution,
    }
    return Story(**(values | changes))


def everything(layers: int, tokens: int) -> dict[str, Any]:
    """One of each result, of one made-up run."""
    return {
        "run": run_result(layers, tokens),
        "grid": grid(layers, tokens),
        "pattern": pattern(tokens),
        "flow": graph(layers, tokens),
        "story": story(layers, tokens),
    }
