"""The rows of the tables in ``analysis/export/sheets.py``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from analysis.attribution.specs import Attribution
from analysis.contract.ledger import Ledger
from analysis.contract.sheets import (
    FLAG,
    LAYER,
    NATS,
    NUMBER,
    POSITION,
    PROBABILITY,
    RANK,
    ROW,
    SHARE,
    TEXT,
    TOKEN,
    Columns,
    Row,
    texts_of,
)
from analysis.flow_graph.results import (
    LINK_KINDS,
    CausalCheck,
    CausalComparison,
    Graph,
    LinkReading,
    Neurons,
)
from analysis.inside_block.specs import Experts, OpenedBlock, ScoreParts
from analysis.lens.options import COMPONENTS
from analysis.lens.results import Colours, Disagreement, Grid, Promoted
from analysis.reports.specs import EmbeddingReport, NormReport, SimilarityReport
from analysis.tracing.specs import PatternResult, RunResult
from analysis.trajectory.specs import Emergence, Steps, Story
from analysis.weights.specs import Circuits, StateCircuits, WeightReport


def facts(result: Any) -> Iterator[Row]:
    """Every number and text of a result, by name."""
    for name in result.__dataclass_fields__:
        value = getattr(result, name)
        if isinstance(value, str | int | float):
            yield name, value


def ranked_columns(run: RunResult) -> Columns:
    """Columns of the predictions of a run."""
    columns = {"position": POSITION, "id": TOKEN, "text": TEXT, "added": FLAG}
    columns |= {"probability": PROBABILITY, "rank": RANK, "entropy": NATS}
    for place in range(1, run.top_ids.shape[1] + 1):
        columns |= {
            f"id_{place}": TOKEN,
            f"next_{place}": TEXT,
            f"probability_{place}": PROBABILITY,
        }
    return columns


def run(run: RunResult) -> Iterator[Row]:
    """The token at each position, its own probability, and what the model predicts after it."""
    names = texts_of(run)
    prob = [None, *run.next_prob.tolist()]
    rank = [None, *run.next_rank.tolist()]
    for pos, token in enumerate(run.tokens):
        row = [pos, token.id, token.text, pos in run.added, prob[pos], rank[pos], run.entropy[pos]]
        for one, value in zip(run.top_ids[pos].tolist(), run.top_probs[pos].tolist(), strict=True):
            row += [one, names.get(one, ""), value]
        yield row


def grid_columns(grid: Grid) -> Columns:
    """Columns of a grid's cells: as many candidates and targets as it has."""
    by_row = COMPONENTS[grid.component].by_row
    columns = {"row": ROW} if by_row else {"layer": LAYER}
    columns |= {"position": POSITION, "entropy": NATS, "kl_to_final": NATS}
    for place in range(1, grid.token_ids.shape[2] + 1):
        columns |= {
            f"candidate_{place}": TEXT, f"id_{place}": TOKEN,
            f"probability_{place}": PROBABILITY, f"score_{place}": NUMBER,
        }  # fmt: skip
    for target in grid.target_ids.tolist():
        columns |= {f"p_{target}": PROBABILITY, f"rank_{target}": RANK}
    return columns


def grid(grid: Grid) -> Iterator[Row]:
    """One row for each cell: its candidates with ids, probabilities and scores, then targets."""
    names = texts_of(grid)
    for at, row in enumerate(grid.rows.tolist()):
        for place, pos in enumerate(grid.positions.tolist()):
            cell = at, place
            values: list[Any] = [row, pos, grid.entropy[cell], grid.kl_to_final[cell]]
            arrays = (grid.token_ids, grid.probs, grid.scores)
            lists = (array[cell].tolist() for array in arrays)
            for number, prob, score in zip(*lists, strict=True):
                values += [names.get(number, ""), number, prob, score]
            for pair in zip(grid.target_probs[cell], grid.target_ranks[cell], strict=True):
                values += pair
            yield values


def shares(colours: Colours) -> Iterator[Row]:
    """The share of each part in each block's output, by each method."""
    for (method, part, layer, pos), value in np.ndenumerate(colours.shares):
        yield (
            colours.methods[method], colours.parts[part], colours.layers[layer],
            colours.positions[pos], value, bool(colours.fallback[layer, pos]),
        )  # fmt: skip


def disagreement_columns(found: Disagreement) -> Columns:
    """Columns of the cells: the first token of each decoder."""
    columns = {"row": ROW, "position": POSITION, "agreement": SHARE, "divergence": NATS}
    for name in found.decoders:
        columns |= {f"top_{name}": TEXT, f"id_{name}": TOKEN}
    return columns


def disagreement(found: Disagreement) -> Iterator[Row]:
    """One row for each cell."""
    names = texts_of(found)
    for (row, pos), agreement in np.ndenumerate(found.agreement):
        values: list[Any] = [
            found.rows[row],
            found.positions[pos],
            agreement,
            found.divergence[row, pos],
        ]
        for token in found.top1[:, row, pos].tolist():
            values += [names.get(token, ""), token]
        yield values


def pattern(found: PatternResult) -> Iterator[Row]:
    """Weights of each query on the keys up to it, or on all if it reads later ones."""
    for head, matrix in enumerate(found.pattern):
        later = bool(np.triu(np.nan_to_num(matrix), 1).any())
        for query, weights in enumerate(matrix.tolist()):
            for key, weight in enumerate(weights if later else weights[: query + 1]):
                yield found.layer, head, query, key, weight


def links(graph: Graph) -> Iterator[Row]:
    """The largest flow first."""
    return iter(sorted(graph.links, key=lambda link: -abs(link.flow)))


def parts(found: Attribution) -> Iterator[Row]:
    """The largest contribution first."""
    return iter(sorted(found.parts, key=lambda part: -abs(part.logit)))


def words(found: Promoted | LinkReading) -> Iterator[Row]:
    """The tokens that a vector promotes, then those that it suppresses."""
    names = texts_of(found)
    for side in ("promoted", "suppressed"):
        logits = getattr(found, f"{side}_logits").tolist()
        for rank, (token, logit) in enumerate(
            zip(getattr(found, side).tolist(), logits, strict=True)
        ):
            yield side, rank, token, names.get(token, ""), logit


def neuron_words(found: Neurons) -> Iterator[Row]:
    """The tokens that each neuron promotes most."""
    names = texts_of(found)
    for (at, rank), token in np.ndenumerate(found.tokens):
        logit = found.token_logits[at, rank]
        yield found.neuron[at], rank, token, names.get(int(token), ""), logit


def cuts(found: CausalCheck) -> Iterator[Row]:
    """One row for each link that was cut."""
    for at, link in enumerate(_cut_links(found)):
        yield *link, found.share[at], found.flow[at], found.effect[at]


def compared_cuts(found: CausalComparison) -> Iterator[Row]:
    """One row for each link that was cut, for each method."""
    links = list(_cut_links(found))
    for method, flow in zip(found.methods, found.flow, strict=True):
        for at, link in enumerate(links):
            yield method, *link, flow[at], found.effect[at]


def _cut_links(found: CausalCheck | CausalComparison) -> Iterator[Row]:
    for at, kind in enumerate(found.kind.tolist()):
        head = found.head[at]
        ends = found.source_pos[at], found.target_pos[at]
        yield LINK_KINDS[kind], found.layer[at], None if head < 0 else head, *ends


def steps_tokens(steps: Steps) -> Iterator[Row]:
    """The rows at which each token emerges, and its largest step."""
    for at, token in enumerate(steps.tokens):
        one = steps.largest[at]
        yield (
            token.id, token.text, steps.first_top1[at], steps.emergence[at], steps.saturation[at],
            one.layer, one.step, one.component, one.attention, one.mlp, one.mlp_logit,
        )  # fmt: skip


def story(story: Story) -> Iterator[Row]:
    """The facts behind the page's sentence, in one row."""
    yield (
        story.position, story.token.id, story.token.text, story.prob, story.first_top1,
        story.emergence, story.saturation, story.step_part, story.step_layer, story.step_head,
        story.step_source, story.step_logit,
    )  # fmt: skip


def emergence(found: Emergence) -> Iterator[Row]:
    """The rows at which the model's choice at each position emerges."""
    size = len(found.token_ids)
    commit = found.causal_commit or (None,) * size
    lists = (found.token_ids, found.first_top1, found.emergence, found.saturation, commit)
    yield from zip(range(size), *lists, strict=True)


def identities(ledger: Ledger) -> Iterator[Row]:
    """Each identity with its error."""
    for one in ledger.entries:
        yield one.number, one.name, one.error, one.tolerance, one.passed, one.note


def cosines(report: EmbeddingReport) -> Iterator[Row]:
    """The histogram of cosines between a token's two rows."""
    edges = report.cosine_edges
    yield from zip(edges[:-1], edges[1:], report.cosine_counts, strict=True)


def quantiles(report: EmbeddingReport) -> Iterator[Row]:
    """Quantiles of cosines, ranks and norms."""
    yield from zip(
        report.quantile_levels, report.cosine_quantiles, *report.self_rank_quantiles,
        report.input_norm_quantiles, report.output_norm_quantiles, strict=True,
    )  # fmt: skip


def norms(report: NormReport) -> Iterator[Row]:
    """Each normalisation layer, the final one first."""
    for one in (*([report.final] if report.final else []), *report.others):
        layer = None if one.layer < 0 else one.layer
        yield one.name, layer, one.kind, one.stores, one.size, one.eps, *one.scale, *one.bias


def bins(report: SimilarityReport) -> Iterator[Row]:
    """Agreement of the rankings by the state's norm."""
    yield from zip(
        report.bin_edges[:-1], report.bin_edges[1:], report.bin_counts,
        report.bin_overlap_euclidean, report.bin_rank_euclidean, report.bin_overlap_dot,
        report.bin_rank_dot, strict=True,
    )  # fmt: skip


def steps_of_block(block: OpenedBlock) -> Iterator[Row]:
    """The vectors of a block in the model's order, each with its best token."""
    names = texts_of(block)
    for at, name in enumerate(block.steps):
        token = int(block.step_tokens[at, 0])
        yield name, block.lengths[at], block.cosines[at], token, names.get(token, "")


def coordinates(block: OpenedBlock) -> Iterator[Row]:
    """The largest coordinates of each vector, and the largest scales of each norm."""
    lists = (
        (block.steps, block.coordinates, block.coordinate_values),
        (tuple(f"{name} norm" for name in block.norm_names), block.norm_coordinates,
         block.norm_scales),
    )  # fmt: skip
    for labels, places, values in lists:
        for (at, rank), value in np.ndenumerate(values):
            yield labels[at], rank, places[at, rank], value


def words_of_block(block: OpenedBlock) -> Iterator[Row]:
    """The tokens of steps and heads, and those that neurons read and write."""
    names = texts_of(block)
    lists: list[tuple[str, Any, Any]] = [
        ("step", block.steps, block.step_tokens),
        ("head", range(len(block.head_tokens)), block.head_tokens),
        *(
            (f"neuron reads {reader}", block.neurons, block.neuron_reads[:, at])
            for at, reader in enumerate(block.neuron_readers)
        ),
        ("neuron writes", block.neurons, block.neuron_writes),
    ]
    for kind, labels, tokens in lists:
        for (at, rank), token in np.ndenumerate(tokens):
            if token >= 0:
                yield kind, str(labels[at]), rank, token, names.get(int(token), "")


def experts(found: Experts) -> Iterator[Row]:
    """The chosen experts, and the rest of the MLP's output."""
    names = texts_of(found)
    weights = [*found.weights.tolist(), None]
    for at, words in enumerate(found.tokens.tolist()):
        promoted = " ".join(names[one] for one in words)
        yield (
            found.name(at), weights[at], found.lengths[at], found.cosines[at], found.effects[at],
            promoted,
        )  # fmt: skip


def largest_scores(found: ScoreParts) -> Iterator[Row]:
    """The 30 entries that are largest in size."""
    return iter(found.largest(30))


def all_scores(found: ScoreParts) -> Iterator[Row]:
    """All entries, the largest in size first."""
    return iter(found.largest(found.matrix.size))


def _readings(found: Circuits | StateCircuits) -> Iterator[tuple[str, str]]:
    """What each token or state promotes, and the keys it looks for, as text."""
    names = texts_of(found)
    for promoted, keys in zip(found.promoted.tolist(), found.keys.tolist(), strict=True):
        yield " ".join(names[one] for one in promoted), " ".join(names[one] for one in keys)


def readings(found: Circuits) -> Iterator[Row]:
    """What each token promotes, and the keys it looks for, as text."""
    names = texts_of(found)
    for token, words in zip(found.tokens.tolist(), _readings(found), strict=True):
        yield names[token], *words


def state_readings(found: StateCircuits) -> Iterator[Row]:
    """The same for each state, with the rank of its own token."""
    names = texts_of(found)
    for at, words in enumerate(_readings(found)):
        yield at, names[int(found.tokens[at])], found.own_ranks[at], *words


def _words(found: Circuits | StateCircuits) -> Iterator[tuple[str, int, int, int, str, float]]:
    """Side, entry, rank, id, text and value of each token that is promoted, ... or looked for."""
    names = texts_of(found)
    lists = (
        ("promotes", found.promoted, found.promoted_logits),
        ("suppresses", found.suppressed, found.suppressed_logits),
        ("looks for", found.keys, found.key_scores),
    )
    for side, tokens, values in lists:
        for (at, rank), token in np.ndenumerate(tokens):
            yield side, at, rank, int(token), names.get(int(token), ""), float(values[at, rank])


def circuit_words(found: Circuits) -> Iterator[Row]:
    """What each listed token promotes, suppresses and looks for, one token a row."""
    names = texts_of(found)
    for side, at, *rest in _words(found):
        one = int(found.tokens[at])
        yield side, one, names.get(one, ""), *rest


def state_words(found: StateCircuits) -> Iterator[Row]:
    """What each state promotes, suppresses and looks for, one token a row."""
    return _words(found)


def directions(found: Circuits) -> Iterator[Row]:
    """The tokens at both ends of each singular vector."""
    names = texts_of(found)
    for side in ("ov_read", "ov_write", "qk_query", "qk_key"):
        for (direction, end, rank), token in np.ndenumerate(getattr(found, side)):
            which = "largest" if end == 0 else "smallest"
            yield side, direction, which, rank, token, names.get(int(token), "")


def singular_values(found: Circuits) -> Iterator[Row]:
    """The singular values of both circuits."""
    for name in ("ov", "qk"):
        for rank, value in enumerate(getattr(found, f"{name}_values")):
            yield name, rank, value


def kinds_of_heads(report: WeightReport) -> Iterator[Row]:
    """The scores of each head."""
    yield from zip(report.layers, report.heads, *report.kinds, strict=True)


def compositions(report: WeightReport) -> Iterator[Row]:
    """Composition scores from each head to each head of a later layer."""
    for (kind, first, second), value in np.ndenumerate(report.composition):
        if np.isfinite(value):
            ends = (report.layers[first], report.heads[first], report.layers[second])
            yield "QKV"[kind], *ends, report.heads[second], value
