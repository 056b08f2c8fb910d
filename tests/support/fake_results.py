"""Made-up colours, steps, disagreement and reports of the right shapes, for the fake service."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from analysis.attribution.specs import Attribution, AttributionSpec
from analysis.contract.specs import Token
from analysis.experiments.component_layout import Layout, grown
from analysis.experiments.component_specs import ComponentGraph, ComponentGraphSpec, names_of
from analysis.experiments.specs import AXES, PromptComparison, PromptSpec, Sweep, SweepSpec
from analysis.inside_block.specs import (
    AggregationReport,
    AggregationSpec,
    BlockSpec,
    Experts,
    ExpertSpec,
    OpenedBlock,
    ScoreParts,
    ScoreSpec,
)
from analysis.lens.options import SHARE_METHODS
from analysis.lens.results import Colours, Disagreement, Promoted
from analysis.lens.specs import ColourSpec, DisagreementSpec, PromotedSpec
from analysis.reports.specs import (
    EmbeddingReport,
    EmbeddingSpec,
    NormReport,
    NormSpec,
    NormSummary,
    SimilarityReport,
    SimilaritySpec,
)
from analysis.tasks.neuron_text_specs import NeuronTexts, NeuronTextSpec
from analysis.trajectory.specs import LargestStep, LargestSteps, LargestStepSpec, Steps, StepsSpec
from analysis.weights.specs import (
    Circuits,
    CircuitSpec,
    StateCircuits,
    StateCircuitSpec,
    WeightReport,
    WeightSpec,
)

LAYERS, HEADS, VOCAB = 12, 6, 40
WORDS = ["The", " capital", " of", " France", " is", " Paris", ".", "\n", " river", " stone"]


def token(number: int) -> Token:
    """Entry ``number`` of the made-up vocabulary."""
    text = WORDS[number] if number < len(WORDS) else f" word{number}"
    return Token(number, text, text.replace(" ", "Ġ"), text.encode().hex())


def vocabulary() -> tuple[Token, ...]:
    """All tokens of the vocabulary."""
    return tuple(token(number) for number in range(VOCAB))


def _axes(size: int, rows: Any, positions: Any, component: str) -> tuple[Any, Any]:
    first = LAYERS + (component == "block_output")
    return (
        np.array(rows if rows is not None else range(first), np.int64),
        np.array(positions if positions is not None else range(size), np.int64) % size,
    )


def colours(size: int, spec: ColourSpec) -> Colours:
    """Random cells; residual 0.6 of every block, attention 0.3, MLP 0.1."""
    lens = spec.lens
    rows, positions = _axes(size, lens.rows, lens.positions, lens.component)
    shape, rng = (len(rows), len(positions)), np.random.default_rng(size)

    def cells(name: str, low: float, high: float) -> Any:
        made = rng.uniform(low, high, shape).astype(np.float32)
        return made if name in spec.quantities else np.full_like(made, np.nan)

    entropy = cells("cross_entropy", 0, 10)
    entropy[:, positions == size - 1] = np.nan
    change, cosine = np.round(cells("rank_change", -5, 30)), cells("cosine_before", -0.2, 1)
    change[rows == 0], cosine[rows == 0] = np.nan, np.nan
    methods = tuple(name for name in SHARE_METHODS if name in spec.quantities)
    shares = np.empty((len(methods), 3, LAYERS, len(positions)), np.float32)
    shares[:] = np.array([0.6, 0.3, 0.1])[:, None, None]
    return Colours(
        rows, positions, entropy, change, cells("state_norm", 1, 90), cosine, np.arange(LAYERS),
        methods, shares, np.zeros(shares.shape[2:], bool), False, spec.quantities, lens.component,
        lens.decoder, lens.norm, lens.similarity,
    )  # fmt: skip


def promoted(size: int, spec: PromotedSpec) -> Promoted:
    """Tokens 5, 6, ... are promoted, 20, 21, ... suppressed."""
    ids, values = np.arange(spec.k), np.linspace(3, 1, spec.k).astype(np.float32)
    return Promoted(
        spec.component, spec.layer, spec.position % size,
        -1 if spec.head is None else spec.head, -1 if spec.source is None else spec.source,
        spec.reading, 4.5, ids + 5, values, ids + 20, -values, 0.25, vocabulary(),
    )  # fmt: skip


def disagreement(size: int, spec: DisagreementSpec) -> Disagreement:
    """Decoders that agree in the last row only. Output and input coincide if both are requested."""
    rows, positions = _axes(size, spec.rows, spec.positions, "block_output")
    shape, count = (len(rows), len(positions)), len(spec.decoders)
    top = np.arange(count)[:, None, None] + np.full(shape, 5)
    top[:, rows == LAYERS] = 5
    apart = np.broadcast_to(((LAYERS - rows) / LAYERS)[:, None], shape)
    both = tuple(name for name in spec.decoders if name in ("output", "input"))
    return Disagreement(
        rows, positions, spec.decoders, top, (apart == 0).astype(np.float32),
        (apart * np.log(count)).astype(np.float32), (both,) if len(both) == 2 else (), spec.norm,
        vocabulary(),
    )  # fmt: skip


def largest_step() -> LargestStep:
    """Layer 9's attention, by head 3 reading position 0."""
    heads = np.argsort(np.arange(HEADS) != 3, kind="stable")
    return LargestStep(
        9, 2.5, "attention", 2.0, 0.5, heads, np.linspace(2.1, -0.3, HEADS).astype(np.float32),
        np.zeros(HEADS, np.int64), 0.4,
    )  # fmt: skip


def steps(size: int, spec: StepsSpec) -> Steps:
    """Curves that rise to 0.9."""
    tokens, rows = spec.tokens or (5,), np.arange(LAYERS + 1)
    rising = np.linspace(0.01, 0.9, LAYERS + 1)[:, None] / np.arange(1, len(tokens) + 1)
    probs, count = rising.astype(np.float32), len(tokens)
    falling = np.linspace(3, 0.1, LAYERS + 1).astype(np.float32)
    position = spec.position % size
    return Steps(
        position, rows, tuple(token(number) for number in tokens), probs, np.log(probs),
        np.round((1 - rising) * 20).astype(np.int64), falling, falling, spec.tau,
        (7,) * count, (9,) + (None,) * (count - 1), (8,) + (None,) * (count - 1),
        (largest_step(),) * count, -1 if position == size - 1 else 5,
    )  # fmt: skip


def largest_steps(size: int, spec: LargestStepSpec) -> LargestSteps:
    """Head 3 of layer 9 at even positions, the MLP of layer 4 at odd ones."""
    odd = np.arange(size) % 2 == 1
    one = np.ones(size, np.float32)
    return LargestSteps(
        np.full(size, 5), np.where(odd, 4, 9), 2.5 * one, np.where(odd, 0.5, 2.0).astype("f4"),
        np.where(odd, 2.0, 0.5).astype("f4"), np.where(odd, -1, 3),
        np.where(odd, np.nan, 2.1).astype("f4"), np.where(odd, -1, 0), vocabulary(),
    )  # fmt: skip


def similarity(size: int, spec: SimilaritySpec) -> SimilarityReport:
    """Cosine and distance agree better in the longer bins."""
    rng, count = np.random.default_rng(spec.seed), min(spec.cells, size * (LAYERS + 1))
    lengths = np.sort(rng.uniform(0.2, 40, count)).astype(np.float32)
    edges = np.array([0.2, 1.0, 5.0, 40.0], np.float32)
    counts = np.histogram(lengths, edges)[0]
    agree = np.array([0.1, 0.4, 0.8], np.float32)
    cells = np.interp(lengths, edges[1:], agree).astype(np.float32)
    swept = np.geomspace(0.1, 100, 8).astype(np.float32)
    return SimilarityReport(
        spec.norm, spec.decoder, spec.k, spec.seed, size * (LAYERS + 1),
        rng.integers(0, LAYERS + 1, count), rng.integers(0, size, count), lengths,
        cells, cells, cells, cells, edges, counts, agree, agree, agree, agree, 8, swept,
        np.linspace(0, 0.9, 8).astype("f4"), np.linspace(-0.1, 0.95, 8).astype("f4"),
        np.array([0.5, 0.9, 1.0, 1.1, 2.0], np.float32),
    )  # fmt: skip


def embedding_report(spec: EmbeddingSpec) -> EmbeddingReport:
    """An untied model whose two matrices are correlated."""
    levels = np.array([0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0], np.float32)
    edges = np.linspace(-1, 1, 41).astype(np.float32)
    counts = np.round(VOCAB * 25 * np.exp(-((edges[:-1] - 0.3) ** 2) * 20)).astype(np.int64)
    return EmbeddingReport(
        False, VOCAB, 48, counts, edges, levels, levels * 0.9 - 0.1, 0.31, 0.02, 0, VOCAB,
        spec.seed, np.array([0.62, 0.55], np.float32), np.stack([levels * 30, levels * 39]),
        levels + 0.5, levels + 1, 1.0, 1.5, 1.0, False,
    )  # fmt: skip


def norm_report(spec: NormSpec) -> NormReport:
    """RMSNorms before attention and MLP of every block, and at the end."""
    scale = np.linspace(0.2, 3, 48).astype(np.float32)
    five = np.quantile(scale, [0, 0.25, 0.5, 0.75, 1]).astype(np.float32)

    def one(name: str, layer: int) -> NormSummary:
        return NormSummary(name, layer, "RMSNorm", "scale", 48, 1e-5, five, five * 0)

    others = tuple(
        one(f"layers.{layer}.{name}", layer)
        for layer in range(LAYERS)
        for name in ("input_layernorm", "post_attention_layernorm")
    )
    return NormReport(one("norm", -1), scale, scale * 0, others)


def sweep(spec: SweepSpec) -> Sweep:
    """The last row carries all of it at the last position; the cells grow towards it."""
    words = [token(number) for number in range(5)]
    own = [replace(words[3], id=8, text=" Italy")]
    clean, corrupted = tuple(words), (*words[:3], *own, words[4])
    sizes = {"state": (LAYERS + 1, 5), "head": (LAYERS, HEADS), "part": (LAYERS, 2, 5)}
    shape = sizes.get(spec.axes, (HEADS, 5))
    effect = np.linspace(-0.2, 1.0, int(np.prod(shape))).reshape(shape).astype(np.float32)
    last = shape[0] - 1 if spec.last is None else spec.last
    if spec.exact:
        effect[: spec.first], effect[last + 1 :] = np.nan, np.nan
    return Sweep(
        spec.axes, spec.direction, spec.metric, spec.alignment, 4 * effect - 2, effect,
        (~np.isnan(effect) & spec.exact).astype(np.int64), 2.0, -2.0, AXES[spec.axes].names,
        token(5), token(9), clean, corrupted, np.arange(5),
        3 if spec.axes == "head_position" else -1, 2,
    )  # fmt: skip


def compared(spec: PromptSpec) -> PromptComparison:
    """Two runs that part at the last position, more and more."""
    words = tuple(token(number) for number in range(5))
    pairs = np.array([[0, 0], [1, 1], [2, 2], [4, 4]], np.int64)
    kl = np.outer(np.arange(LAYERS + 1), [0, 0, 0, 0.5]).astype(np.float32)
    rising = np.repeat((kl / 6)[..., None], 2, -1)
    return PromptComparison(
        pairs, kl, 0.9 * kl, (5, 9), rising, 0.25 * rising, np.full(kl.shape, 5),
        np.full(kl.shape, 9), words, words, vocabulary(),
    )  # fmt: skip


def component_graph(spec: ComponentGraphSpec) -> ComponentGraph:
    """A head that reads an MLP, which reads the embedding, and some weaker edges."""
    layout, size = Layout((HEADS,) * LAYERS, (True,) * LAYERS, False), 5
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(*layout.shape, size)).astype(np.float32)
    every = layout.all_edges(size)
    ranked = every[np.argsort(-np.abs(scores.ravel()[every]), kind="stable")]
    order, sizes = grown(layout, ranked, spec.edges, size)
    receiver, sender, pos = layout.split(order, size)
    counts = np.array([10, 30, 100, layout.possible(size)] if spec.curve else [], np.int64)
    kept = np.linspace(0.4, 1.0, len(counts)).astype(np.float32)
    words = tuple(token(number) for number in range(size))
    senders, receivers = names_of(layout)
    return ComponentGraph(
        senders, receivers, sender, receiver, pos, scores.ravel()[order],
        np.zeros(len(order), np.int64), sizes, 2.0, -2.0, layout.possible(size), 0.0, 1e-7,
        counts, kept, np.outer(kept, [0.1] * spec.draws).astype(np.float32), 1 - kept, words,
        words, token(5), token(9), spec.ablation, spec.score, spec.positions, 1, 9,
    )  # fmt: skip


#: By spec: (size of the sequence, spec) -> result, or (spec) -> result for a model.
def attribution(size: int, spec: AttributionSpec) -> Attribution:
    rng = np.random.default_rng(spec.position)
    heads = rng.normal(size=(LAYERS, HEADS)).astype(np.float32)
    mlps = rng.normal(size=LAYERS).astype(np.float32)
    bias = np.zeros(LAYERS, np.float32)
    token = 5 if spec.token is None else spec.token
    total = float(1.5 + heads.sum() + mlps.sum())
    return Attribution(spec.position, token, spec.foil, 1.5, heads, bias, mlps, 0.0, total)


def block(size: int, spec: BlockSpec) -> OpenedBlock:
    """Three steps; head 2 writes most and reads the first token."""
    position, steps = spec.position % size, ("State in", "Attention output", "State out")
    keys = position + 1
    shape = (HEADS, keys)
    weights = np.full(shape, 0.2 / keys, np.float32)
    weights[:, 0] += 0.8
    ones, sizes = np.ones(shape, np.float32), np.ones(HEADS, np.float32)
    sizes[2] = 3.0
    return OpenedBlock(
        spec.layer, position, False, steps, np.array([4, 2, 5], np.float32),
        np.array([1, 0.1, 0.9], np.float32), np.full((3, spec.k), 5), np.ones((3, 5), np.int64),
        np.ones((3, 5), np.float32), ("attention",), np.array([0.5], np.float32),
        np.array([0.9], np.float32), np.arange(5)[None], np.ones((1, 5), np.float32),
        ones * 2, ones * -0.5, ones * 0, 0.0, "rotation", 1e-7, weights, ones, ones * 0.5, sizes,
        sizes * 0.3, np.full((HEADS, spec.k), 6), np.array([7]), np.array([1.5], np.float32),
        np.array([0.25], np.float32), np.full((1, 1, spec.k), 8), ("up_proj",),
        np.full((1, spec.k), 9), 5, -1, 1e-7, 2e-7, 3e-7, "", "", "", vocabulary(),
    )  # fmt: skip


def experts(size: int, spec: ExpertSpec) -> Experts:
    """Expert 3 has most of the weight, in layers with an odd number; the others are dense."""
    count = 2 if spec.layer % 2 else 0
    sizes = np.array([4, 1, 2], np.float32)[2 - count :]
    return Experts(
        spec.layer, spec.position % size, np.array([3, 0])[:count],
        np.array([0.75, 0.25], np.float32)[:count], 8 if count else 0, sizes, sizes / 5, sizes / 8,
        np.full((count + 1, spec.k), 6), 5, -1, 1e-7, "" if count else "No experts.", vocabulary(),
    )  # fmt: skip


def score_parts(size: int, spec: ScoreSpec) -> ScoreParts:
    """The embedding of the query times head 0.1 of the key makes most of the score."""
    matrix = np.array([[0.1, 2.0], [0.2, -0.3]], np.float32)
    return ScoreParts(
        spec.layer, spec.head, spec.query % size, spec.key, ("embedding", "head"),
        np.array([-1, 0]), np.array([-1, 1]), matrix, float(matrix.sum()), 0.8,
    )  # fmt: skip


def aggregation(size: int, spec: AggregationSpec) -> AggregationReport:
    """Half of attention's output lies inside."""
    half = np.full(LAYERS, 0.5, np.float32)
    return AggregationReport(spec.rank, 48, size, half, half / 2, half / 10, half / 10, spec.seed)


def neuron_texts(spec: NeuronTextSpec) -> NeuronTexts:
    """Neuron 7 fires most at " France" in the second text; all others in the first one."""
    best, places = np.zeros((10, 2), np.int64), np.ones((10, 2), np.int64)
    best[:, 1] = 1
    best[7], places[7, 0] = (1, 0), 3
    sizes = np.tile(np.array([2.5, -0.5], np.float32), (10, 1))
    texts = ("The river is stone", "The capital of France is Paris")
    ids = ((0, 8, 4, 9), (0, 1, 2, 3, 4, 5))
    return NeuronTexts(spec.layer, spec.own or texts, ids, best, places, sizes, vocabulary())


def circuits(spec: CircuitSpec) -> Circuits:
    """Token 5 promotes itself."""
    ends, one = np.full((2, 2, spec.k), 6), np.full((1, spec.k), 5)
    values = np.array([3, 2], np.float32)
    return Circuits(
        spec.layer, spec.head, 0, 8, 8, values, values, ends, ends, ends, ends, 0.25, 0.75, 40,
        spec.seed, True, np.array([5]), one, one * 1.0, one + 1, one * -1.0, one + 2, one * 0.5,
        ("Position is left out.",), vocabulary(),
    )  # fmt: skip


def state_circuits(size: int, spec: StateCircuitSpec) -> StateCircuits:
    """Every state promotes its own token most."""
    tokens, lists = np.arange(size), np.repeat(np.arange(size)[:, None], spec.k, 1)
    row = spec.layer if spec.row is None else spec.row
    return StateCircuits(
        spec.layer, spec.head, row, tokens, np.ones(size, np.int64), lists, lists * 1.0, lists + 1,
        lists * -1.0, lists + 2, lists * 0.5, ("Position is left out.",), vocabulary(),
    )  # fmt: skip


def weights(spec: WeightSpec) -> WeightReport:
    """Head 3.2 is an induction head."""
    heads = np.tile(np.arange(HEADS), LAYERS)
    layers = np.repeat(np.arange(LAYERS), HEADS)
    kinds = np.full((5, len(heads)), 0.1, np.float32)
    kinds[2, 3 * HEADS + 2] = 0.9
    composed = np.full((3, len(heads), len(heads)), 0.05, np.float32)
    composed[:, layers[:, None] >= layers[None]] = np.nan
    return WeightReport(
        layers, heads, kinds, 50, 40, spec.seed, ("W_Q", "mlp.up_proj"),
        np.ones((2, LAYERS), np.float32), composed, 0.04, ("Position is left out.",),
    )  # fmt: skip


MADE: dict[str, Callable[..., Any]] = {
    "aggregation": aggregation,
    "block": block,
    "circuits": circuits,
    "experts": experts,
    "neuron_texts": neuron_texts,
    "score_parts": score_parts,
    "state_circuits": state_circuits,
    "weights": weights,
    "attribute": attribution,
    "colours": colours,
    "promoted": promoted,
    "disagreement": disagreement,
    "steps": steps,
    "largest_steps": largest_steps,
    "similarity": similarity,
    "embedding_report": embedding_report,
    "norm_report": norm_report,
}
