"""Quantities that colour a grid: of its cells, and of the parts of each block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from analysis.contract import jobs
from analysis.contract.specs import Floats, Ints
from analysis.lens.cells import CellReader, axis_size, cells_at_once, one_matrix, readable
from analysis.lens.options import QUANTITIES, SHARE_METHODS
from analysis.lens.results import Colours
from analysis.lens.shares import block_shares
from analysis.lens.specs import ColourSpec, DecodeOptions, LensSpec, entries, lens_spec
from analysis.model.handle import Model
from analysis.tracing.capture import Trace
from analysis.tracing.vocabulary import rank

#: Cells decoded at once if all rows share one matrix, and if each row has its own.
CHUNK, CHUNK_BY_ROW = 128, 512


def compute(model: Model, trace: Trace, spec: ColourSpec) -> Colours:
    """Cross-entropy, rank change, state norm, cosine to the row before, and contribution shares.

    The cells are decoded as in the grid (same decoder, norm and similarity). The rank in the row
    before uses that row's matrix. No forward pass is needed.

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
    reader = CellReader(model, trace, lens)
    _measure_states(reader, cells, places)
    if {"cross_entropy", "rank_change"} & set(spec.quantities):
        _decode(model, trace, lens, reader, cells, places)
    methods = tuple(name for name in SHARE_METHODS if name in spec.quantities)
    split, fallback = block_shares(model, trace, positions, methods)
    return Colours(
        rows=cells.rows,
        positions=cells.positions,
        **cells.arrays_of(spec.quantities),
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
        other_parts=tuple(trace.other_out),
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

    def arrays_of(self, wanted: tuple[str, ...]) -> dict[str, Floats]:
        """All arrays by name. An array that was not requested is all NaN."""
        return {name: self.arrays[name] if name in wanted else self._empty() for name in self.NAMES}


def _measure_states(reader: CellReader, cells: _Cells, places: Ints) -> None:
    """L2 norms, and cosines to the entry before on the first axis."""
    where = cells.positions[places]
    for number, row in enumerate(cells.rows.tolist()):
        here = reader.states(row)[where].astype(np.float64)
        length = np.linalg.norm(here, axis=-1)
        cells.arrays["state_norm"][number, places] = length
        if row == 0:
            continue
        before = reader.states(row - 1)[where].astype(np.float64)
        lengths = length * np.linalg.norm(before, axis=-1)
        known = lengths > 0.0
        cosine = (here * before).sum(-1) / np.where(known, lengths, 1.0)
        cells.arrays["cosine_before"][number, places] = np.where(known, cosine, np.nan)


@torch.no_grad()
def _decode(
    model: Model, trace: Trace, lens: LensSpec, reader: CellReader, cells: _Cells, places: Ints
) -> None:
    """Decode the cells and those one row before them, some positions at a time."""
    wanted = cells.rows.tolist()
    rows = sorted({*wanted, *(row - 1 for row in wanted if row > 0)})
    number_of = {row: number for number, row in enumerate(rows)}
    here = [number_of[row] for row in wanted]
    before = [number_of.get(row - 1, -1) for row in wanted]
    following = np.array([*trace.token_ids[1:], -1])
    together = one_matrix(model.readout, lens.decoder)
    at_once = cells_at_once(model, CHUNK if together else CHUNK_BY_ROW)
    for done, part in _parts(places[::-1], max(at_once // len(rows), 1)):
        where = cells.positions[part]
        flat, chosen = reader.scores(np.repeat(rows, len(part)), np.tile(where, len(rows)))
        scores = flat.view(len(rows), len(part), -1)
        if _by_pursuit(lens):
            first = _nearest_rows(reader, rows, where, chosen.view(len(rows), len(part)))
        else:
            first = scores.argmax(-1)
        for number, (now, earlier) in enumerate(zip(here, before, strict=True)):
            if lens.similarity == "dot":
                loss = _cross_entropy(scores[now], following[where])
                cells.arrays["cross_entropy"][number, part] = loss
            if earlier >= 0:
                change = rank(scores[earlier], first[now])
                if _by_pursuit(lens):  # otherwise the first candidate ranks 0 here
                    change -= rank(scores[now], first[now])
                cells.arrays["rank_change"][number, part] = change.cpu().numpy()
        jobs.step(done, len(places), "Colouring cells")


def _parts(places: Ints, size: int) -> Iterator[tuple[int, Ints]]:
    """For each chunk: the number of positions done after it, and the places of its positions."""
    for start in range(0, len(places), size):
        part = places[start : start + size]
        yield start + len(part), part


def _by_pursuit(lens: LensSpec) -> bool:
    """Whether matching pursuit chose the tokens.

    Subtraction starts from the same scores as the top-k list. Cosine and distance rank the tokens
    themselves.
    """
    return lens.candidates == "matching_pursuit" and lens.similarity == "dot"


def _nearest_rows(reader: CellReader, rows: list[int], where: Ints, chosen: Tensor) -> Tensor:
    """[row, n] the decoder's unit row with the largest inner product with each raw state."""
    found = []
    for number, row in enumerate(rows):
        states, nearest = reader.translated(row)[where], []
        for matrix in reader.readers(row):
            units = torch.nn.functional.normalize(matrix.rows(), dim=-1)
            nearest.append((states.to(units.device) @ units.T).argmax(-1))
        found.append(torch.stack(nearest).gather(0, chosen[number][None])[0])
    return torch.stack(found)


def _cross_entropy(logits: Tensor, following: Ints) -> Floats:
    """[n] minus log-probability of the tokens that come next; NaN where there is none (-1)."""
    tokens = torch.from_numpy(np.maximum(following, 0)).to(logits.device)
    # Subtract the largest logit first. Otherwise the loss of a nearly certain token is the
    # difference of two large, nearly equal numbers.
    peak = logits.amax(-1, keepdim=True)
    total = (logits - peak).exp().sum(-1).log()
    loss = total - (logits - peak).gather(1, tokens[:, None])[:, 0]
    values: Floats = np.where(following >= 0, loss.cpu().numpy(), np.float32(np.nan))
    return values


def colours(
    model: Model,
    trace: Trace,
    *,
    quantities: Sequence[str] = tuple(QUANTITIES),
    **options: Unpack[DecodeOptions],
) -> Colours:
    """Quantities that can colour the cells of a grid.

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
    return compute(model, trace, ColourSpec(lens_spec(options), tuple(quantities)))
