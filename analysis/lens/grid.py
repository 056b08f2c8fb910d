"""The logit lens and its kin: every hidden state read as tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, NamedTuple, Unpack

import numpy as np
import torch
from torch import Tensor

from analysis.contract import progress
from analysis.contract.results import Floats, Ints, Token
from analysis.contract.specs import as_tuple
from analysis.learned.files import lens_of
from analysis.lens.candidates import peel
from analysis.lens.components import axis_size, decoder_row, entries, readable, states_of
from analysis.lens.decoders import Reader, one_matrix, readers, similarity
from analysis.lens.results import Grid
from analysis.lens.specs import DecodeOptions, LensSpec
from analysis.model.handle import Model
from analysis.model.readout import Readout
from analysis.tracing.capture import Trace
from analysis.tracing.tokens import check_ids, vocabulary
from analysis.tracing.vocabulary import Reference, RowStats, row_stats


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


#: Cells decoded at once: their rows of logits stay near the cache, the matrix is read once.
CHUNK = 128


def compute(model: Model, trace: Trace, spec: LensSpec) -> Grid:
    """Decode rows x positions of one component into tokens.

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``.
        spec: What to read and how.

    Returns:
        A Grid; its last row, with the output decoder and the full norm, is the model's output.

    Raises:
        SpecError: If a row, position or head does not exist.
        PromptError: If a target token is not in the vocabulary.
        CancelledError: If the caller's progress listener stops the work.
    """
    size = len(trace.tokens)
    rows = entries("Row", spec.rows, axis_size(model, spec.component))
    positions = entries("Position", spec.positions, size)
    if spec.target:
        check_ids(spec.target, int(model.readout.output_rows.shape[0]))
    cells = GridCells(rows, positions, spec)
    states = _States(model, trace, spec, rows)
    places = readable(spec, positions, size)
    chunks = list(_chunks(rows, places, not one_matrix(model.readout, spec.decoder)))
    for done, (row_places, pos_places) in enumerate(chunks):
        _fill(model, trace, spec, states, cells, Cells(row_places, pos_places))
        progress.step(done + 1, len(chunks), "Decoding")
    named = vocabulary(model.tokenizer, [*np.unique(cells.token_ids).tolist(), *spec.target])
    return cells.grid(spec, named)


def _chunks(rows: list[int], places: Ints, row_by_row: bool) -> Iterator[tuple[Ints, Ints]]:
    """Places of the cells of each chunk; late positions first, as they are looked at first."""
    order = places[::-1]
    groups = [[place] for place in range(len(rows))] if row_by_row else [list(range(len(rows)))]
    for group in groups:
        row_places = np.tile(np.array(group), len(order))
        pos_places = np.repeat(order, len(group))
        for start in range(0, len(row_places), CHUNK):
            yield row_places[start : start + CHUNK], pos_places[start : start + CHUNK]


class _States:
    """The states of each row, made once: a head's output is not an array of the trace.

    A learned lens moves them first to where the last row's states would be (arXiv 2303.08112).
    """

    def __init__(self, model: Model, trace: Trace, spec: LensSpec, rows: list[int]) -> None:
        lens = lens_of(model, spec.decoder)
        plain = {row: torch.from_numpy(states_of(model, trace, spec, row)) for row in rows}
        self._made = {row: lens.translate(states, row).numpy() for row, states in plain.items()}

    def of(self, rows: Ints, positions: Ints) -> Tensor:
        """[n, d_model] states of cells."""
        pairs = zip(rows.tolist(), positions.tolist(), strict=True)
        return torch.from_numpy(np.stack([self._made[row][pos] for row, pos in pairs]))


@torch.no_grad()
def _fill(
    model: Model,
    trace: Trace,
    spec: LensSpec,
    states: _States,
    arrays: GridCells,
    cells: Cells,
) -> None:
    readout = model.readout
    rows, positions = arrays.rows[cells.rows], arrays.positions[cells.positions]
    vectors = states.of(rows, positions).to(readout.device, readout.output_rows.dtype)
    normed = readout.normed(vectors, spec.norm)
    targets = torch.tensor(spec.target, dtype=torch.long, device=readout.device)
    targets = targets.expand(len(cells.rows), -1)
    row = decoder_row(spec.component, int(rows[0]))
    choices = readers(readout, spec, row, model.info.layers)
    if spec.similarity != "dot":
        _store_similarity(choices, normed, spec, targets, arrays, cells)
        return
    wanted, which = np.unique(positions, return_inverse=True)
    final = Reference.of(torch.from_numpy(trace.logits[wanted]).to(readout.device))
    numbers = torch.from_numpy(which).to(readout.device)
    readings = []
    for reader in choices:
        logits = reader.logits(normed)
        stats = row_stats(logits, spec.k, targets)
        readings.append((stats, final.kl_to(logits, stats, numbers)))
    arrays.store_best(readings, cells)
    if spec.candidates == "top_k":
        return
    winner = arrays.chosen[cells]  # a cell's candidates are those of the decoder that read it
    for number, reader in enumerate(choices):
        mine = np.flatnonzero(winner == number)
        if len(mine):
            part = Cells(cells.rows[mine], cells.positions[mine])
            _store_peeled(readout, reader, vectors[mine], normed[mine], spec, arrays, part)


def _store_similarity(
    choices: list[Reader],
    normed: Tensor,
    spec: LensSpec,
    targets: Tensor,
    arrays: GridCells,
    cells: Cells,
) -> None:
    """Rank by cosine (largest first) or Euclidean distance (smallest first)."""
    sign = 1.0 if spec.similarity == "cosine" else -1.0
    scores = torch.stack([sign * similarity(reader, normed, spec.similarity) for reader in choices])
    winner = scores.amax(-1).argmax(0)
    best = scores[winner, torch.arange(len(winner), device=winner.device)]
    arrays.store_scores(row_stats(best, spec.k, targets), winner, sign, cells)


def _store_peeled(
    readout: Readout,
    reader: Reader,
    vectors: Tensor,
    normed: Tensor,
    spec: LensSpec,
    arrays: GridCells,
    cells: Cells,
) -> None:
    """Only the first candidate stands for the state itself and has a probability."""
    ids, scores, explained = peel(readout, reader, vectors, spec)
    first = torch.from_numpy(ids[:, :1]).clamp_min(0).to(normed.device)
    probs = torch.log_softmax(reader.logits(normed), -1).gather(1, first).exp().cpu().numpy()
    arrays.store_candidates(ids, scores, explained, probs, cells)


def decode(
    model: Model,
    trace: Trace,
    *,
    k: int = 5,
    target: int | Sequence[int] | None = None,
    **options: Unpack[DecodeOptions],
) -> Grid:
    """Read hidden states as tokens (logit lens, nostalgebraist 2020, and its kin).

    Args:
        model: From ``load_model``.
        trace: From ``trace``.
        k: How many candidates.
        target: A token id, or several, to follow.
        **options: component, decoder, norm, similarity, candidates, rows, positions, head, source:
            see ``DecodeOptions``. The default is the logit lens on all block outputs.

    Raises:
        SpecError: If an option has no such value, or a row, position or head does not exist.
    """
    chosen: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    for name in ("rows", "positions"):
        if name in chosen:
            chosen[name] = as_tuple(chosen[name])
    grid = compute(model, trace, LensSpec(k=k, target=as_tuple(target), **chosen))
    return replace(grid, single_target=isinstance(target, Integral))
