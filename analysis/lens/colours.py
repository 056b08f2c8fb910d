"""Quantities of a grid's cells beside its tokens, and of the blocks' parts: what colours it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from analysis.contract import progress
from analysis.contract.results import Floats, Ints
from analysis.contract.specs import as_tuple
from analysis.lens.cell_scores import CellScores, cells_at_once, ranks_of
from analysis.lens.components import axis_size, decoder_row, entries, readable
from analysis.lens.decoders import one_matrix, readers
from analysis.lens.results import Colours
from analysis.lens.shares import block_shares
from analysis.lens.specs import QUANTITIES, SHARE_METHODS, ColourSpec, DecodeOptions, LensSpec
from analysis.model.handle import Model
from analysis.tracing.capture import Trace

#: Cells decoded at once where all rows are read with one matrix, and where they are not.
CHUNK, CHUNK_BY_ROW = 128, 512


def compute(model: Model, trace: Trace, spec: ColourSpec) -> Colours:
    """Cross-entropy, rank change, state norm, cosine to the row before, and contribution shares.

    The reading is that of the grid that the page shows (its decoder, norm and similarity); ranks
    one row before are taken with the matrix of that row. All comes from the trace: no pass.

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``.
        spec: Which grid, and which quantities.

    Raises:
        SpecError: If a row, position, head or source does not exist.
        CancelledError: If the caller's progress listener stops the work.
    """
    lens, size = spec.lens, len(trace.tokens)
    rows = entries("Row", lens.rows, axis_size(model, lens.component))
    positions = entries("Position", lens.positions, size)
    places = readable(lens, positions, size)
    cells = _Cells(rows, positions)
    scores = CellScores(model, trace, lens)
    _measure_states(scores, cells, places)
    if {"cross_entropy", "rank_change"} & set(spec.quantities):
        _read(model, trace, lens, scores, cells, places)
    return _finished(model, trace, spec, cells, positions)


def _finished(
    model: Model, trace: Trace, spec: ColourSpec, cells: _Cells, positions: list[int]
) -> Colours:
    """The result, with the shares that were asked for."""
    lens = spec.lens
    methods = tuple(name for name in SHARE_METHODS if name in spec.quantities)
    split, fallback = block_shares(model, trace, positions, methods)
    return Colours(
        rows=cells.rows,
        positions=cells.positions,
        **{name: cells.kept(name, spec.quantities) for name in _Cells.NAMES},
        layers=np.arange(model.info.layers),
        methods=methods,
        shares=split.numpy(),
        fallback=fallback.numpy(),
        parallel_blocks=model.info.parallel_blocks,
        quantities=spec.quantities,
        component=lens.component,
        decoder=lens.decoder,
        norm=lens.norm,
        similarity=lens.similarity,
    )


class _Cells:
    """Arrays of a result, NaN until filled."""

    NAMES = ("cross_entropy", "rank_change", "state_norm", "cosine_before")

    def __init__(self, rows: list[int], positions: list[int]) -> None:
        self.rows, self.positions = np.array(rows, np.int64), np.array(positions, np.int64)
        self._shape = (len(rows), len(positions))
        self.arrays = {name: self._empty() for name in self.NAMES}

    def _empty(self) -> Floats:
        return np.full(self._shape, np.nan, np.float32)

    def kept(self, name: str, wanted: tuple[str, ...]) -> Floats:
        """One of them, or NaN throughout where it was not asked for."""
        return self.arrays[name] if name in wanted else self._empty()


def _measure_states(scores: CellScores, cells: _Cells, places: Ints) -> None:
    """L2 norms, and cosines to the entry before on the first axis."""
    where = cells.positions[places]
    for number, row in enumerate(cells.rows.tolist()):
        here = scores.states(row)[where].astype(np.float64)
        length = np.linalg.norm(here, axis=-1)
        cells.arrays["state_norm"][number, places] = length
        if row == 0:
            continue
        before = scores.states(row - 1)[where].astype(np.float64)
        lengths = length * np.linalg.norm(before, axis=-1)
        known = lengths > 0.0
        cosine = (here * before).sum(-1) / np.where(known, lengths, 1.0)
        cells.arrays["cosine_before"][number, places] = np.where(known, cosine, np.nan)


@torch.no_grad()
def _read(
    model: Model, trace: Trace, lens: LensSpec, scores: CellScores, cells: _Cells, places: Ints
) -> None:
    """Decode the cells and those one row before them, some positions at a time."""
    asked = cells.rows.tolist()
    rows = sorted({*asked, *(row - 1 for row in asked if row > 0)})
    number_of = {row: number for number, row in enumerate(rows)}
    here = [number_of[row] for row in asked]
    before = [number_of.get(row - 1, -1) for row in asked]
    following = np.array([*trace.token_ids[1:], -1])
    together = one_matrix(model.readout, lens.decoder)
    at_once = cells_at_once(model, CHUNK if together else CHUNK_BY_ROW)
    for done, part in _parts(places[::-1], max(at_once // len(rows), 1)):
        where = cells.positions[part]
        read = scores.of(np.repeat(rows, len(part)), np.tile(where, len(rows)))
        read = read.view(len(rows), len(part), -1)
        shown = _shown(model, lens, scores, rows, where, read)
        for number, (now, earlier) in enumerate(zip(here, before, strict=True)):
            if lens.similarity == "dot":
                loss = _cross_entropy(read[now], following[where])
                cells.arrays["cross_entropy"][number, part] = loss
            if earlier >= 0:
                change = ranks_of(read[earlier], shown[now])
                if _pursued(lens):  # else the shown token ranks first here
                    change -= ranks_of(read[now], shown[now])
                cells.arrays["rank_change"][number, part] = change.cpu().numpy()
        progress.step(done, len(places), "Colouring cells")


def _parts(places: Ints, size: int) -> Iterator[tuple[int, Ints]]:
    """How many positions are done, and places of those of each chunk."""
    for start in range(0, len(places), size):
        part = places[start : start + size]
        yield start + len(part), part


def _shown(
    model: Model,
    lens: LensSpec,
    scores: CellScores,
    rows: list[int],
    where: Ints,
    read: Tensor,
) -> Tensor:
    """[row, n] the first candidate of each cell.

    Subtraction starts from the same norm and scores as the top-k list; matching pursuit from the
    largest inner product of the raw state with the decoder's unit rows.
    """
    if not _pursued(lens):
        return read.argmax(-1)
    found = []
    for row in rows:
        of_row = decoder_row(lens.component, row)
        nearest = []
        for reader in readers(model.readout, lens, of_row, model.info.layers):
            units = torch.nn.functional.normalize(reader.rows(), dim=-1)
            states = scores.moved(row)[where].to(units.device)
            nearest.append((states @ units.T).argmax(-1))
        winner = scores.winner(row, where).to(nearest[0].device)
        found.append(torch.stack(nearest).gather(0, winner[None])[0])
    return torch.stack(found)


def _pursued(lens: LensSpec) -> bool:
    """Whether matching pursuit chose the tokens; cosine and distance rank by themselves."""
    return lens.candidates == "matching_pursuit" and lens.similarity == "dot"


def _cross_entropy(logits: Tensor, following: Ints) -> Floats:
    """[n] minus log-probability of the tokens that come next; NaN where there is none (-1)."""
    tokens = torch.from_numpy(np.maximum(following, 0)).to(logits.device)
    # The largest logit first: the loss of a sure token is a difference of two close numbers.
    peak = logits.amax(-1, keepdim=True)
    total = (logits - peak).exp().sum(-1).log()
    loss = total - (logits - peak).gather(1, tokens[:, None])[:, 0]
    values: Floats = np.where(following >= 0, loss.cpu().numpy(), np.float32(np.nan))
    return values


def colours(
    model: Model,
    trace: Trace,
    *,
    quantities: Sequence[str] = QUANTITIES,
    **options: Unpack[DecodeOptions],
) -> Colours:
    """What a grid's cells can be coloured by beside their tokens.

    Args:
        model: From ``load_model``.
        trace: From ``trace``.
        quantities: Of "cross_entropy" (of the true next token, nats), "rank_change" (against the
            row before), "state_norm", "cosine_before", and the shares of residual, attention and
            MLP in each block's output by "norm", "proximity", "kl" and "hidden_kl".
        **options: The grid: as in ``decode``.

    Raises:
        SpecError: If an option has no such value, or a row, position, head or source does not
            exist.
    """
    chosen: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    for name in ("rows", "positions"):
        if name in chosen:
            chosen[name] = as_tuple(chosen[name])
    asked: Any = tuple(quantities)
    return compute(model, trace, ColourSpec(LensSpec(**chosen), asked))
