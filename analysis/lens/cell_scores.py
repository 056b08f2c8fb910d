"""Scores over the vocabulary of cells of a grid, as the grid itself reads them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from analysis.contract.results import Floats, Ints
from analysis.learned.files import lens_of
from analysis.lens.components import decoder_row, states_of
from analysis.lens.decoders import one_matrix, readers, similarity
from analysis.lens.specs import LensSpec
from analysis.model.handle import Model
from analysis.tracing.capture import Trace

#: Scores held at once, float32.
_AT_ONCE = 1 << 25


def cells_at_once(model: Model, most: int) -> int:
    """How many cells to read together: ``most``, fewer where the vocabulary is large."""
    return min(max(_AT_ONCE // int(model.readout.output_rows.shape[0]), 1), most)


class CellScores:
    """Reads cells of one component with one decoder, norm and similarity.

    Args:
        model: The model the trace was made with.
        trace: From ``analysis.trace``.
        spec: How to read.
    """

    def __init__(self, model: Model, trace: Trace, spec: LensSpec) -> None:
        self._model, self._trace, self._spec = model, trace, spec
        self._lens = lens_of(model, spec.decoder)
        self._states: dict[int, Floats] = {}
        self._moved: dict[int, Tensor] = {}

    def states(self, row: int) -> Floats:
        """[pos, d_model] the states of one entry of the first axis, made once."""
        if row not in self._states:
            self._states[row] = states_of(self._model, self._trace, self._spec, row)
        return self._states[row]

    @torch.no_grad()
    def moved(self, row: int) -> Tensor:
        """[pos, d_model] the same as they are read: a learned lens translates them first."""
        if row not in self._moved:
            self._moved[row] = self._lens.translate(torch.from_numpy(self.states(row)), row)
        return self._moved[row]

    @torch.no_grad()
    def of(self, rows: Ints, positions: Ints) -> Tensor:
        """[n, vocab] float32 scores of n cells: logits, cosines, or minus distances.

        The decoders that read each row with a matrix of its own take the cells row by row.
        """
        pairs = zip(rows.tolist(), positions.tolist(), strict=True)
        states = torch.stack([self.moved(row)[pos] for row, pos in pairs])
        if one_matrix(self._model.readout, self._spec.decoder):
            return self._read(states, int(rows[0]))
        found: Tensor | None = None
        for row in np.unique(rows).tolist():
            mine = torch.from_numpy(rows == row)
            scores = self._read(states[mine], row)
            if found is None:
                found = scores.new_empty(len(rows), scores.shape[1])
            found[mine.to(scores.device)] = scores
        assert found is not None  # noqa: S101 - there is at least one row
        return found

    @torch.no_grad()
    def winner(self, row: int, positions: Ints) -> Tensor:
        """[n] which of its decoders reads each cell of a row: 0, where there is but one."""
        return self._readings(self.moved(row)[positions], row)[1]

    def _read(self, states: Tensor, row: int) -> Tensor:
        scores, winner = self._readings(states, row)
        if len(scores) == 1:
            return scores[0]
        return torch.stack(scores)[winner, torch.arange(len(winner), device=winner.device)]

    def _readings(self, states: Tensor, row: int) -> tuple[list[Tensor], Tensor]:
        """[n, vocab] scores by each decoder, and [n] which of them is surest."""
        readout, spec = self._model.readout, self._spec
        row = decoder_row(spec.component, row)
        vectors = states.to(readout.device, readout.output_rows.dtype)
        normed = readout.normed(vectors, spec.norm)
        choices = readers(readout, spec, row, self._model.info.layers)
        if spec.similarity == "dot":
            scores = [reader.logits(normed) for reader in choices]
            tops = [logits.amax(-1) - logits.logsumexp(-1) for logits in scores]
        else:
            sign = 1.0 if spec.similarity == "cosine" else -1.0
            scores = [sign * similarity(reader, normed, spec.similarity) for reader in choices]
            tops = [values.amax(-1) for values in scores]
        return scores, torch.stack(tops).argmax(0)


def ranks_of(scores: Tensor, tokens: Tensor) -> Tensor:
    """[n] ranks of one token in each row of scores [n, vocab]; 0 is best, ties in its favour."""
    better = (scores > scores.gather(1, tokens[:, None])).float()
    # A product with ones sums a comparison four times as fast, exactly up to 2**24 tokens.
    return (better @ torch.ones(better.shape[1], device=better.device)).long()
