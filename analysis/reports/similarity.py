"""How far cosine, Euclidean distance and dot product rank the vocabulary alike.

For a state h and a decoder row e, ``|h - e|² = |h|² + |e|² - 2 h·e``. Over the rows, |h| is fixed:
Euclidean distance ranks by ``2 |h| |e| cos(h, e) - |e|²``. If all rows have one length that is the
ranking by cosine, for h of any length. If they don't, it tends to the ranking by dot product
(long rows first) as |h| grows, and to "the shortest row first", whatever h points at, as |h|
shrinks. Scaling h and all rows together changes no ranking: no ball is special as such. What
decides whether the two behave alike is how much the rows' lengths differ, and how long the state
is beside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.contract import progress
from analysis.contract.results import Floats, Ints
from analysis.lens.decoders import Reader
from analysis.model.handle import Model
from analysis.reports.specs import SimilarityReport, SimilaritySpec
from analysis.tracing.capture import Trace

#: Cells ranked at once; three rankings of each are held.
CHUNK = 16
BINS = 8
#: Of the cells, so many are scaled to each of these lengths.
SWEPT_CELLS = 16
LENGTHS = tuple(2.0**power for power in range(-6, 11))
Agreement = dict[str, Floats]
NAMES = ("overlap_euclidean", "rank_euclidean", "overlap_dot", "rank_dot")


@torch.no_grad()
def compute(model: Model, trace: Trace, spec: SimilaritySpec) -> SimilarityReport:
    """Agreement of the three rankings on block outputs, by the state's length.

    Overlap of the k best tokens, and Spearman's correlation (1904) over the whole vocabulary;
    rows of equal score rank by their id in each. Cells are drawn; of some of them the direction is
    then kept and the length swept over powers of 2, which shows what length alone does.

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``.
        spec: Norm, decoder, k, number of cells, seed.

    Raises:
        CancelledError: If the caller's progress listener stops the work.
    """
    rows, positions, in_all = _drawn(trace, spec)
    reader = Reader(model.readout, 1.0 if spec.decoder == "output" else 0.0)
    ruler = _Ruler(reader.rows().detach(), spec.k)
    states = torch.from_numpy(trace.resid[rows, positions])
    states = states.to(model.readout.device, model.readout.output_rows.dtype)
    normed = model.readout.normed(states, spec.norm).float()
    lengths: Floats = normed.norm(dim=-1).cpu().numpy()
    return SimilarityReport(
        norm=spec.norm,
        decoder=spec.decoder,
        k=spec.k,
        seed=spec.seed,
        cells_in_all=in_all,
        rows=rows,
        positions=positions,
        state_norm=lengths,
        **_binned(_agreements(ruler, normed), lengths),
        **_swept(ruler, normed, spec.seed),
        row_norm=np.quantile(ruler.lengths.cpu().numpy(), np.linspace(0, 1, 5)).astype(np.float32),
    )


def _drawn(trace: Trace, spec: SimilaritySpec) -> tuple[Ints, Ints, int]:
    """Rows and positions of the cells to look at, and how many there are in all."""
    count, size = trace.resid.shape[:2]
    every = count * size
    drawn = np.random.default_rng(spec.seed).choice(every, min(spec.cells, every), replace=False)
    drawn.sort()
    return drawn // size, drawn % size, every


class _Ruler:
    """Ranks a decoder's rows by their likeness to states.

    Args:
        rows: [vocab, d_model].
        k: How many best rows the overlap looks at.
    """

    def __init__(self, rows: Tensor, k: int) -> None:
        self._rows, self._k = rows, min(k, len(rows))
        self._square = rows.double().square().sum(-1).float()
        self.lengths = self._square.sqrt()

    def dot(self, states: Tensor) -> Tensor:
        """[n, vocab] inner products."""
        return states @ self._rows.T

    def cosine(self, dot: Tensor) -> Tensor:
        """[n, vocab] the cosines' order: the state's length, the same for all rows, is left out."""
        return dot / self.lengths.clamp_min(1e-30)

    def euclidean(self, dot: Tensor) -> Tensor:
        """[n, vocab] the order of minus the squared distances: ``|h|²`` is left out likewise."""
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


def _agreements(ruler: _Ruler, states: Tensor) -> Agreement:
    found: dict[str, list[Tensor]] = {name: [] for name in NAMES}
    for done, part in _parts(states):
        dot = ruler.dot(part)
        cosine = ruler.order(ruler.cosine(dot))
        for name, scores in (("euclidean", ruler.euclidean(dot)), ("dot", dot)):
            overlap, rank = ruler.agreement(cosine, ruler.order(scores))
            found[f"overlap_{name}"].append(overlap)
            found[f"rank_{name}"].append(rank)
        progress.step(done, len(states), "Ranking by three similarities")
        progress.pause()
    return {name: torch.cat(values).float().cpu().numpy() for name, values in found.items()}


def _parts(states: Tensor) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(states), CHUNK):
        part = states[start : start + CHUNK]
        yield start + len(part), part


def _binned(found: Agreement, lengths: Floats) -> dict[str, Any]:
    """The agreements of each cell, and their means over bins of the states' lengths."""
    edges, places = _bins(lengths)
    bins = len(edges) - 1
    means = {f"bin_{name}": _means(values, places, bins) for name, values in found.items()}
    counts = np.bincount(places, minlength=bins)
    return {**found, "bin_edges": edges, "bin_counts": counts, **means}


def _swept(ruler: _Ruler, states: Tensor, seed: int) -> dict[str, Any]:
    """Of some of the states: mean agreement of cosine and distance at each length."""
    chosen = np.random.default_rng(seed).permutation(len(states))[:SWEPT_CELLS]
    states = states[torch.from_numpy(chosen).to(states.device)]
    dot = ruler.dot(torch.nn.functional.normalize(states, dim=-1))
    cosine = ruler.order(ruler.cosine(dot))
    overlaps, ranks = [], []
    for done, length in enumerate(LENGTHS):
        order = ruler.order(ruler.euclidean(dot * length))
        overlap, rank = ruler.agreement(cosine, order)
        overlaps.append(float(overlap.mean()))
        ranks.append(float(rank.mean()))
        progress.step(done + 1, len(LENGTHS), "Sweeping the state's length")
        progress.pause()
    return {
        "swept_cells": len(chosen),
        "swept_norm": np.array(LENGTHS, np.float32),
        "swept_overlap": np.array(overlaps, np.float32),
        "swept_rank": np.array(ranks, np.float32),
    }


def _bins(lengths: Floats) -> tuple[Floats, Ints]:
    """Edges of bins in geometric steps, 1 among them, and the bin of each length."""
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
    """How far cosine, Euclidean distance and dot product rank the vocabulary alike.

    Args:
        model: From ``load_model``.
        trace: From ``trace``.
        norm: What block outputs are normed by first, as in ``decode``.
        decoder: Whose rows they are compared with, "output" or "input".
        k: How many best tokens the overlap looks at.
        cells: At most so many (row, position) cells, drawn by ``seed``.
        seed: Of the draw.

    Raises:
        SpecError: If an option has no such value.
    """
    chosen: Any = {"norm": norm, "decoder": decoder}
    spec = SimilaritySpec(k=k, cells=cells, seed=seed, **chosen)
    return compute(model, trace, spec)
