"""The logit lens and its variants: states decoded to tokens."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, NamedTuple, TypeAlias, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.contract import jobs
from analysis.contract.specs import Ints, Token
from analysis.errors import SpecError
from analysis.lens.cells import CellReader, axis_size, cells_at_once, one_matrix, readable
from analysis.lens.promoted import peel
from analysis.lens.results import Grid
from analysis.lens.specs import DecodeOptions, LensSpec, entries, lens_spec
from analysis.model.handle import Model
from analysis.tracing.capture import Trace
from analysis.tracing.tokens import check_ids, token_ids, vocabulary
from analysis.tracing.vocabulary import Reference, RowStats, decode_stats, row_stats

#: Cells decoded at once: few enough for the cache, enough to reuse the matrix.
CHUNK = 128
#: The same where ``decode_stats`` reads the logits once.
_PLAIN_CHUNK = 256


Arrays: TypeAlias = dict[str, NDArray[Any]]


class Cells(NamedTuple):
    """Indices (not numbers) of n cells along the grid's two axes."""

    rows: Ints
    positions: Ints


@dataclass(frozen=True)
class Columns:
    """What was computed from the states at some positions, for longer sequences to take.

    Attributes:
        known: [pos] the positions.
        arrays: Name -> [any, pos, ...]; filled at the known positions.
    """

    known: NDArray[np.bool_]
    arrays: Arrays

    @classmethod
    def like(cls, some: Arrays, size: int) -> Columns:
        """Empty columns of a sequence of ``size`` positions, for arrays such as ``some``."""
        wide = {
            name: np.zeros((len(array), size, *array.shape[2:]), array.dtype)
            for name, array in some.items()
        }
        return cls(np.zeros(size, bool), wide)

    def put(self, known: NDArray[Any], arrays: Arrays) -> None:
        """Copy the columns at some positions: their indices, or a mask."""
        for name, array in arrays.items():
            self.arrays[name][:, known] = array
        self.known[known] = True

    def first(self, count: int) -> Columns:
        """Those of the first ``count`` positions."""
        short = {name: array[:, :count] for name, array in self.arrays.items()}
        return Columns(self.known[:count], short)


#: Most computations whose columns are kept with a trace, and most bytes of each.
_MOST_COLUMNS, _COLUMN_BYTES = 8, 32 << 20


def taken_columns(trace: Trace, key: Hashable) -> Columns | None:
    """What the trace of a prefix knows of a computation that reads each position by itself."""
    found: Columns | None = trace.scratch.get(("taken", key))
    return found


def joined_columns(trace: Trace, key: Hashable, places: Ints, fresh: Arrays) -> Columns:
    """Columns that were computed, and those that are known. They are kept with the trace.

    Args:
        trace: The trace.
        key: The computation. At each position it may depend on nothing but the states there.
        places: [n] the positions.
        fresh: Name -> [any, n, ...] the results.
    """
    found: Columns | None = trace.scratch.pop(("columns", key), None)
    taken = taken_columns(trace, key)
    if found is None:
        found = Columns.like(fresh, len(trace.tokens))
    if taken is not None and not found.known.any():
        arrays = {name: array[:, taken.known] for name, array in taken.arrays.items()}
        found.put(np.flatnonzero(taken.known), arrays)
    found.put(places, fresh)
    if trace.keys and sum(array.nbytes for array in found.arrays.values()) <= _COLUMN_BYTES:
        kept = [one for one in trace.scratch if one[0] == "columns"]
        for one in kept[: max(len(kept) + 1 - _MOST_COLUMNS, 0)]:
            trace.scratch.pop(one)
        trace.scratch["columns", key] = found
    return found


def by_column(trace: Trace, key: Hashable, compute: Callable[[Ints], Arrays]) -> Arrays:
    """Name -> [any, pos, ...] of a computation that reads each position by itself.

    Args:
        trace: The trace.
        key: The computation.
        compute: Gives the arrays [any, n, ...] of n positions, those that no prefix knows.
    """
    places, taken = np.arange(len(trace.tokens)), taken_columns(trace, key)
    if taken is not None:
        places = np.delete(places, np.flatnonzero(taken.known))
    found = joined_columns(trace, key, places, compute(places))
    return {name: array.copy() for name, array in found.arrays.items()}


class GridArrays:
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

    def store_ranking(self, stats: RowStats, sign: float, chosen: Tensor, cells: Cells) -> None:
        """Store the best tokens. ``sign`` is -1 for distances, which were negated to rank them."""
        best = (*cells, slice(stats.ids.shape[1]))
        self.chosen[cells] = _numpy(chosen)
        self.token_ids[best] = _numpy(stats.ids)
        self.scores[best] = sign * _numpy(stats.values)
        self.target_ranks[cells] = _numpy(stats.target_ranks)

    def store_distribution(self, stats: RowStats, kl: Tensor, cells: Cells) -> None:
        """Store what needs a distribution over the vocabulary; cosine and distance have none."""
        self.probs[(*cells, slice(stats.ids.shape[1]))] = _numpy(stats.probs)
        self.entropy[cells], self.kl[cells] = _numpy(stats.entropy), _numpy(kl)
        self.target_probs[cells] = _numpy(stats.target_probs)

    @property
    def by_name(self) -> Arrays:
        """Every array [row, pos, ...]."""
        return {name: value for name, value in vars(self).items() if value.ndim > 1}

    def take(self, taken: Columns, places: Ints) -> Ints:
        """Fill the columns that are known. Returns the places [n] of the others."""
        positions = self.positions[places]
        known = positions < len(taken.known)
        known[known] = taken.known[positions[known]]
        for name, array in self.by_name.items():
            array[:, places[known]] = taken.arrays[name][self.rows][:, positions[known]]
        return places[~known]

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


def compute(model: Model, trace: Trace, spec: LensSpec) -> Grid:
    """Decode rows x positions of one component into tokens.

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``.
        spec: What to decode and how.

    Returns:
        A Grid; its last row, with the output decoder and the full norm, is the model's output.

    Raises:
        SpecError: If a row, position or head does not exist, or k is larger than the vocabulary.
        PromptError: If a target token is not in the vocabulary.
        CancelledError: If the caller's progress listener stops the work.
    """
    size = len(trace.tokens)
    rows = entries("Row", spec.rows, axis_size(model, spec.component))
    positions = entries("Position", spec.positions, size)
    vocab = int(model.readout.output_rows.shape[0])
    if spec.target:
        check_ids(spec.target, vocab)
    if spec.k > vocab:
        raise SpecError(
            f"{spec.k} candidates are requested; the vocabulary has {vocab} tokens.",
            f"Choose k from 1 to {vocab}.",
        )
    arrays, reader = GridArrays(rows, positions, spec), CellReader(model, trace, spec)
    places = readable(spec, positions, size)
    reading = _reading(spec)
    taken = None if reading is None else taken_columns(trace, reading)
    places = places if taken is None else arrays.take(taken, places)
    by_row = not one_matrix(model.readout, spec.decoder)
    most = _PLAIN_CHUNK if reader.plain and spec.candidates == "top_k" else CHUNK
    chunks = list(_chunks(len(rows), places, cells_at_once(model, most), by_row=by_row))
    for done, cells in enumerate(chunks):
        _fill(model, trace, spec, reader, arrays, cells)
        jobs.step(done + 1, len(chunks), "Decoding")
    if reading is not None and spec.rows is None:
        joined_columns(trace, reading, arrays.positions, arrays.by_name)
    named = vocabulary(model.tokenizer, [*np.unique(arrays.token_ids).tolist(), *spec.target])
    return arrays.grid(spec, named)


def _reading(spec: LensSpec) -> LensSpec | None:
    """A spec without rows and positions; None if its cells do not depend on their states alone.

    A learned lens can be fitted again, and a source can be counted from the end.
    """
    if spec.decoder == "learned" or (spec.source is not None and spec.source < 0):
        return None
    return replace(spec, rows=None, positions=None)


def _chunks(rows: int, places: Ints, size: int, *, by_row: bool) -> Iterator[Cells]:
    """The cells, ``size`` at a time; the last positions first, because users look at them first."""
    order = places[::-1]
    for group in [[row] for row in range(rows)] if by_row else [list(range(rows))]:
        row_places = np.tile(np.array(group), len(order))
        pos_places = np.repeat(order, len(group))
        whole = size - size % len(group) or size  # whole positions share their reference
        for start in range(0, len(row_places), whole):
            yield Cells(row_places[start : start + whole], pos_places[start : start + whole])


@torch.no_grad()
def _fill(
    model: Model, trace: Trace, spec: LensSpec, reader: CellReader, arrays: GridArrays, cells: Cells
) -> None:
    rows, positions = arrays.rows[cells.rows], arrays.positions[cells.positions]
    device = model.readout.device
    targets = torch.tensor(spec.target, dtype=torch.long, device=device).expand(len(rows), -1)
    different, which = np.unique(positions, return_inverse=True)
    final = Reference.of(torch.from_numpy(trace.logits[different]).to(device))
    belongs = torch.from_numpy(which).to(device)
    if spec.candidates == "top_k" and reader.plain:
        normed = model.readout.normed(reader.vectors(rows, positions), spec.norm)
        stats, kl = decode_stats(
            model.readout, normed, spec.k, targets, final, belongs, reader.room
        )
        assert kl is not None  # noqa: S101 - there is a reference
        arrays.store_ranking(stats, 1.0, torch.zeros(len(rows), dtype=torch.long), cells)
        arrays.store_distribution(stats, kl, cells)
        return
    scores, chosen = reader.scores(rows, positions)
    stats = row_stats(scores, spec.k, targets)
    sign = -1.0 if spec.similarity == "euclidean" else 1.0
    arrays.store_ranking(stats, sign, chosen, cells)
    if spec.similarity != "dot":
        return
    arrays.store_distribution(stats, final.kl_to(scores, stats, belongs), cells)
    if spec.candidates != "top_k":
        log_probs = scores - stats.log_total[:, None]
        _store_peeled(model, spec, reader, arrays, cells, chosen, log_probs)


def _store_peeled(
    model: Model,
    spec: LensSpec,
    reader: CellReader,
    arrays: GridArrays,
    cells: Cells,
    chosen: Tensor,
    log_probs: Tensor,
) -> None:
    """Replace the most probable tokens by the candidates of subtraction or matching pursuit.

    Only the first candidate stands for the state itself and has a probability.
    """
    rows = arrays.rows[cells.rows]
    vectors = reader.vectors(rows, arrays.positions[cells.positions])
    for number, matrix in enumerate(reader.readers(int(rows[0]))):
        mine = torch.nonzero(chosen == number)[:, 0]
        if not len(mine):
            continue
        ids, scores, explained = peel(model.readout, matrix, vectors[mine], spec)
        first = torch.from_numpy(ids[:, :1]).clamp_min(0).to(log_probs.device)
        probs = _numpy(log_probs[mine].gather(1, first).exp())
        places = _numpy(mine)
        where = (cells.rows[places], cells.positions[places])
        arrays.token_ids[where], arrays.scores[where] = ids, scores
        arrays.explained[where], arrays.probs[where] = explained, np.nan
        arrays.probs[(*where, slice(1))] = np.where(ids[:, :1] >= 0, probs, np.nan)


def decode(
    model: Model,
    trace: Trace,
    *,
    k: int = 5,
    target: int | str | Sequence[int | str] | None = None,
    **options: Unpack[DecodeOptions],
) -> Grid:
    """Decode states to tokens (logit lens, nostalgebraist 2020, and its variants).

    Args:
        model: From ``load_model``.
        trace: From ``trace``.
        k: How many candidates.
        target: A token to follow, as id or text, or several.
        **options: component, decoder, norm, similarity, candidates, rows, positions, head, source:
            see ``DecodeOptions``. The default is the logit lens on all block outputs.

    Raises:
        SpecError: If an option has no such value, or a row, position or head does not exist.
    """
    grid = compute(model, trace, lens_spec(options, k=k, target=token_ids(model.tokenizer, target)))
    return replace(grid, single_target=isinstance(target, (Integral, str)))
