"""How similarly cosine, Euclidean distance and dot product rank the vocabulary.

For a state h and a decoder row e, ``|h - e|² = |h|² + |e|² - 2 h·e``. |h| is the same for all
rows, so Euclidean distance ranks by ``2 |h| |e| cos(h, e) - |e|²``. If all rows have one length,
that is the ranking by cosine, for h of any length. If not, it tends to the ranking by dot product
(long rows first) as |h| grows, and to "the shortest row first", whatever the direction of h, as
|h| shrinks. Scaling h and all rows together changes no ranking, so the unit ball is not special.
Cosine and distance rank alike if the rows' lengths differ little compared with the length of the
state.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.contract import jobs
from analysis.contract.specs import Floats, Ints
from analysis.lens.cells import Reader
from analysis.model.handle import Model
from analysis.reports.specs import SimilarityReport, SimilaritySpec
from analysis.tracing.capture import Trace

#: Cells ranked at once; three rankings of each are held in memory.
CHUNK = 16
BINS = 8
#: Number of cells that are scaled to each of these lengths.
SWEPT_CELLS = 16
LENGTHS = tuple(2.0**power for power in range(-6, 11))
Agreement = dict[str, Floats]
NAMES = ("overlap_euclidean", "rank_euclidean", "overlap_dot", "rank_dot")


@torch.no_grad()
def compute(model: Model, trace: Trace, spec: SimilaritySpec) -> SimilarityReport:
    """Agreement of the three rankings on block outputs, by the state's length.

    Overlap of the k best tokens, and Spearman's correlation (1904) over the whole vocabulary;
    rows of equal score rank by their id. Cells are sampled. Some of them are then scaled to lengths
    of powers of 2, which shows the effect of length alone.

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``.
        spec: Norm, decoder, k, number of cells, seed.

    Raises:
        CancelledError: If the caller's progress listener stops the work.
    """
    trace.require_model(model)
    rows, positions, total = _sample(trace, spec)
    reader = Reader(model.readout, 1.0 if spec.decoder == "output" else 0.0)
    ranker = _Ranker(reader.rows().detach(), spec.k)
    states = torch.from_numpy(trace.resid[rows, positions])
    states = states.to(model.readout.device, model.readout.output_rows.dtype)
    normed = model.readout.normed(states, spec.norm).float()
    lengths: Floats = normed.norm(dim=-1).cpu().numpy()
    return SimilarityReport(
        norm=spec.norm,
        decoder=spec.decoder,
        k=spec.k,
        seed=spec.seed,
        cells_in_all=total,
        rows=rows,
        positions=positions,
        state_norm=lengths,
        **_binned(_agreements(ranker, normed), lengths),
        **_length_sweep(ranker, normed, spec.seed),
        row_norm=np.quantile(ranker.lengths.cpu().numpy(), np.linspace(0, 1, 5)).astype(np.float32),
    )


def _sample(trace: Trace, spec: SimilaritySpec) -> tuple[Ints, Ints, int]:
    """Rows and positions of the sampled cells, and the number of all cells."""
    count, size = trace.resid.shape[:2]
    total = count * size
    cells = np.random.default_rng(spec.seed).choice(total, min(spec.cells, total), replace=False)
    cells.sort()
    return cells // size, cells % size, total


class _Ranker:
    """Ranks a decoder's rows by their similarity to states.

    Args:
        rows: [vocab, d_model].
        k: How many best rows the overlap counts.
    """

    def __init__(self, rows: Tensor, k: int) -> None:
        self._rows, self._k = rows, min(k, len(rows))
        self._square = rows.double().square().sum(-1).float()
        self.lengths = self._square.sqrt()

    def dot(self, states: Tensor) -> Tensor:
        """[n, vocab] inner products."""
        return states @ self._rows.T

    def cosine(self, dot: Tensor) -> Tensor:
        """[n, vocab] scores in the order of the cosines; the state's length changes no order."""
        return dot / self.lengths.clamp_min(1e-30)

    def euclidean(self, dot: Tensor) -> Tensor:
        """[n, vocab] scores in the order of minus the squared distances; without ``|h|²``."""
        return 2.0 * dot - self._square

    def order(self, scores: Tensor) -> Tensor:
        """[n, vocab] ids of the rows, best first."""
        return scores.argsort(dim=-1, descending=True, stable=True)

    def agreement(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Overlap of the k best and Spearman's correlation of two orders [n, vocab], [n] each."""
        first, second = one[:, : self._k], other[:, : self._k]
        shared = (first[:, :, None] == second[:, None]).any(-1).float().mean(-1)
        places = torch.arange(one.shape[1], device=one.device).expand_as(one)
        ranks = torch.empty_like(one).scatter_(1, one, places)
        gaps = (ranks.gather(1, other) - places).double().square().sum(-1)
        size = float(one.shape[1])
        return shared, 1.0 - 6.0 * gaps / (size * (size * size - 1.0))


def _agreements(ranker: _Ranker, states: Tensor) -> Agreement:
    found: dict[str, list[Tensor]] = {name: [] for name in NAMES}
    for done, part in enumerate(torch.split(states, CHUNK), 1):
        dot = ranker.dot(part)
        cosine = ranker.order(ranker.cosine(dot))
        for name, scores in (("euclidean", ranker.euclidean(dot)), ("dot", dot)):
            overlap, rank = ranker.agreement(cosine, ranker.order(scores))
            found[f"overlap_{name}"].append(overlap)
            found[f"rank_{name}"].append(rank)
        jobs.step(min(done * CHUNK, len(states)), len(states), "Ranking by three similarities")
        jobs.pause()
    return {name: torch.cat(values).float().cpu().numpy() for name, values in found.items()}


def _binned(found: Agreement, lengths: Floats) -> dict[str, Any]:
    """The agreements of each cell, and their means over bins of the states' lengths."""
    edges, places = _bins(lengths)
    bins = len(edges) - 1
    means = {f"bin_{name}": _means(values, places, bins) for name, values in found.items()}
    counts = np.bincount(places, minlength=bins)
    return {**found, "bin_edges": edges, "bin_counts": counts, **means}


def _length_sweep(ranker: _Ranker, states: Tensor, seed: int) -> dict[str, Any]:
    """Mean agreement of cosine and distance at each length, of some of the states."""
    chosen = np.random.default_rng(seed).permutation(len(states))[:SWEPT_CELLS]
    states = states[torch.from_numpy(chosen).to(states.device)]
    dot = ranker.dot(torch.nn.functional.normalize(states, dim=-1))
    cosine = ranker.order(ranker.cosine(dot))
    overlaps, ranks = [], []
    for done, length in enumerate(LENGTHS):
        order = ranker.order(ranker.euclidean(dot * length))
        overlap, rank = ranker.agreement(cosine, order)
        overlaps.append(float(overlap.mean()))
        ranks.append(float(rank.mean()))
        jobs.step(done + 1, len(LENGTHS), "Sweeping the state's length")
        jobs.pause()
    return {
        "swept_cells": len(chosen),
        "swept_norm": np.array(LENGTHS, np.float32),
        "swept_overlap": np.array(overlaps, np.float32),
        "swept_rank": np.array(ranks, np.float32),
    }


def _bins(lengths: Floats) -> tuple[Floats, Ints]:
    """Edges of bins in geometric steps, 1 included if it lies between, and each length's bin."""
    low, high = max(float(lengths.min()), 1e-6), max(float(lengths.max()), 1e-6)
    edges = np.array([low, high])
    if high > 1.001 * low:
        inner = np.geomspace(low, high, BINS + 1)[1:-1]
        edges = np.unique([low, high, *inner, *([1.0] if low < 1.0 < high else [])])
    places: Ints = np.digitize(lengths, edges[1:-1])
    return edges.astype(np.float32), places


def _means(values: Floats, places: Ints, bins: int) -> Floats:
    counts = np.bincount(places, minlength=bins)
    sums = np.bincount(places, values, bins)
    means: Floats = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).astype(np.float32)
    return means


def similarity_report(
    model: Model,
    trace: Trace,
    *,
    norm: str = "full",
    decoder: str = "output",
    k: int = 10,
    cells: int = 128,
    seed: int = 0,
) -> SimilarityReport:
    """How similarly cosine, Euclidean distance and dot product rank the vocabulary.

    Args:
        model: From ``load_model``.
        trace: From ``trace``.
        norm: How block outputs are normalised first, as in ``decode``.
        decoder: The decoder whose rows they are compared with, "output" or "input".
        k: How many best tokens the overlap counts.
        cells: At most this many (row, position) cells are sampled.
        seed: The seed of that sample.

    Raises:
        SpecError: If an option has no such value.
    """
    chosen: Any = {"norm": norm, "decoder": decoder}
    spec = SimilaritySpec(k=k, cells=cells, seed=seed, **chosen)
    return compute(model, trace, spec)
