"""The logit lens and its kin: every hidden state read as tokens.

Source: nostalgebraist 2020, "interpreting GPT: the logit lens"; the norm's
statistics are recomputed from the state that is read.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from analysis import progress
from analysis.candidates import peel
from analysis.capture import Trace
from analysis.components import axis_size, decoder_row, entries, readable, states_of
from analysis.decoders import Reader, one_matrix, readers, similarity
from analysis.grid_cells import Cells, GridCells
from analysis.learned.files import lens_of
from analysis.lens_math import Reference, row_stats
from analysis.models.handle import Model
from analysis.models.readout import Readout
from analysis.results import Grid
from analysis.results.base import Ints
from analysis.specs import LensSpec
from analysis.tokens import check_ids, vocabulary

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
