"""The grid while it is being filled, some cells at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from analysis.lens_math import RowStats
from analysis.results import Grid, Token
from analysis.results.base import Floats, Ints
from analysis.specs import LensSpec


class Cells(NamedTuple):
    """Places (not numbers) of n cells along the grid's two axes."""

    rows: Ints
    positions: Ints


class GridCells:
    """Arrays of a Grid, NaN or -1 until filled."""

    def __init__(self, rows: Sequence[int], positions: Sequence[int], spec: LensSpec) -> None:
        self.rows, self.positions = np.array(rows, np.int64), np.array(positions, np.int64)
        shape = (len(rows), len(positions))
        self.token_ids = np.full((*shape, spec.k), -1, np.int64)
        self.probs = np.full((*shape, spec.k), np.nan, np.float32)
        self.scores, self.explained = self.probs.copy(), self.probs.copy()
        self.entropy = np.full(shape, np.nan, np.float32)
        self.kl, self.chosen = self.entropy.copy(), np.zeros(shape, np.int64)
        self.target_probs = np.full((*shape, len(spec.target)), np.nan, np.float32)
        self.target_ranks = np.full((*shape, len(spec.target)), -1, np.int64)

    def store_best(self, readings: list[tuple[RowStats, Tensor]], cells: Cells) -> None:
        """Store, cell by cell, the reading whose top probability is highest."""
        top = np.stack([_numpy(stats.probs[:, 0]) for stats, _ in readings])
        winner = top.argmax(0)
        self.chosen[cells] = winner
        for number, (stats, kl) in enumerate(readings):
            mine = winner == number
            where = (cells.rows[mine], cells.positions[mine])
            k = stats.ids.shape[1]
            self.token_ids[(*where, slice(k))] = _numpy(stats.ids)[mine]
            self.probs[(*where, slice(k))] = _numpy(stats.probs)[mine]
            self.scores[(*where, slice(k))] = _numpy(stats.values)[mine]
            self.entropy[where] = _numpy(stats.entropy)[mine]
            self.kl[where] = _numpy(kl)[mine]
            self.target_probs[where] = _numpy(stats.target_probs)[mine]
            self.target_ranks[where] = _numpy(stats.target_ranks)[mine]

    def store_scores(self, stats: RowStats, winner: Tensor, sign: float, cells: Cells) -> None:
        """Store a ranking that is no distribution (cosine, distance)."""
        k = stats.ids.shape[1]
        self.chosen[cells] = _numpy(winner)
        self.token_ids[(*cells, slice(k))] = _numpy(stats.ids)
        self.scores[(*cells, slice(k))] = sign * _numpy(stats.values)
        self.target_ranks[cells] = _numpy(stats.target_ranks)

    def store_candidates(
        self, ids: Ints, scores: Floats, explained: Floats, first_prob: Floats, cells: Cells
    ) -> None:
        """Put other candidates in place of the k most probable ones."""
        self.token_ids[cells], self.scores[cells], self.explained[cells] = ids, scores, explained
        self.probs[cells] = np.nan
        self.probs[(*cells, slice(1))] = np.where(ids[:, :1] >= 0, first_prob, np.nan)

    def grid(self, spec: LensSpec, named: tuple[Token, ...]) -> Grid:
        """The finished result."""
        return Grid(
            rows=self.rows,
            positions=self.positions,
            token_ids=self.token_ids,
            probs=self.probs,
            scores=self.scores,
            entropy=self.entropy,
            kl_to_final=self.kl,
            target_ids=np.array(spec.target, np.int64),
            target_probs=self.target_probs,
            target_ranks=self.target_ranks,
            chosen=self.chosen,
            explained=self.explained,
            single_target=len(spec.target) == 1,
            vocabulary=named,
            component=spec.component,
            decoder=spec.decoder,
            norm=spec.norm,
            similarity=spec.similarity,
        )


def _numpy(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array
