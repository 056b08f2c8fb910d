"""Matrices that turn a normed state into scores: unembedding, embedding, or a mix of the two."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from analysis.lens.options import DECODERS
from analysis.lens.specs import LensSpec
from analysis.model.readout import Readout

#: Bytes of decoder rows held in float64 at once.
_BYTES = 64 << 20


def coincide(readout: Readout) -> bool:
    """Whether the output decoder, the input decoder and all mixes of them are one matrix."""
    return readout.tied and readout.output_bias is None


def one_matrix(readout: Readout, decoder: str) -> bool:
    """Whether a decoder uses one matrix for all rows, so that rows can share a product."""
    return not DECODERS[decoder].by_row or coincide(readout)


@dataclass(frozen=True)
class Reader:
    """Scores states of one row with one matrix.

    Attributes:
        readout: The model's own readout.
        share: Weight of the output decoder, 0 (input embedding) to 1 (unembedding).
    """

    readout: Readout
    share: float

    def logits(self, normed: Tensor) -> Tensor:
        """Normed states [n, d_model] to float32 logits [n, vocab], scale and cap applied."""
        readout = self.readout
        scaled = normed * readout.state_scale
        if self.share == 1.0 or coincide(readout):
            raw: Tensor = readout.unembedding(scaled).float()
            return readout.cap(raw)
        raw = (scaled @ self._input_rows(scaled).T).float() * (1.0 - self.share)
        if self.share > 0.0:
            raw += readout.unembedding(scaled).float() * self.share
        return readout.cap(raw)

    def rows(self) -> Tensor:
        """[vocab, d_model] the decoder's rows, float32."""
        out = self.readout.output_rows.float()
        if self.share == 1.0 or self.readout.tied:
            return out
        inner = self._input_rows(out).float()
        return (1.0 - self.share) * inner + self.share * out

    def _input_rows(self, like: Tensor) -> Tensor:
        return self.readout.input_rows.to(like.device, like.dtype)


def output_matrix(readout: Readout, depth: float) -> list[Reader]:
    """The unembedding U. A learned lens uses it too: its translator comes before the norm."""
    return [Reader(readout, 1.0)]


def input_matrix(readout: Readout, depth: float) -> list[Reader]:
    """The input embedding E."""
    return [Reader(readout, 0.0)]


def linear(readout: Readout, depth: float) -> list[Reader]:
    """``(1 - s) E + s U`` with ``s = row / last row`` (InTraVisTo 2024, rows 0..L)."""
    return [Reader(readout, depth)]


def quadratic(readout: Readout, depth: float) -> list[Reader]:
    """``(1 - s) E + s U`` with ``s = (row / last row)^2`` (InTraVisTo 2024)."""
    return [Reader(readout, depth**2)]


def midpoint(readout: Readout, depth: float) -> list[Reader]:
    """``(E + U) / 2`` at every depth: the control for ``linear`` and ``quadratic``."""
    return [Reader(readout, 0.5)]


def output_and_input(readout: Readout, depth: float) -> list[Reader]:
    """U and E; one of them where they are the same matrix."""
    both = [Reader(readout, 1.0), Reader(readout, 0.0)]
    return both[:1] if coincide(readout) else both


def readers(readout: Readout, spec: LensSpec, row: int, last_row: int) -> list[Reader]:
    """The readers of a row. With several, the one with the most certain top token decodes a cell.

    Args:
        readout: The model's own readout.
        spec: Names the decoder.
        row: 0 to ``last_row``.
        last_row: The number of layers.
    """
    found: list[Reader] = DECODERS[spec.decoder].load()(readout, row / last_row)
    return found


def similarity(reader: Reader, normed: Tensor, kind: str) -> Tensor:
    """[n, vocab] cosine to, or Euclidean distance from, each of the decoder's rows."""
    rows, states = reader.rows(), normed.float()
    if kind == "cosine":
        units = torch.nn.functional.normalize(states, dim=-1)
        return (units @ rows.T).div_(rows.norm(dim=-1).clamp_min(1e-12))
    return _distances(states.double(), rows)


def _distances(states: Tensor, rows: Tensor) -> Tensor:
    """[n, vocab] float32 ``sqrt(|h|^2 + |e|^2 - 2 h.e)``, as one product.

    In float64: float32 would lose the digits of a distance that is small beside the lengths.
    """
    found = states.new_empty(len(states), len(rows), dtype=torch.float32)
    size = max(_BYTES // (8 * rows.shape[1]), 1)
    square = states.square().sum(-1, keepdim=True)
    for start in range(0, len(rows), size):
        part = rows[start : start + size].double()
        squared = torch.addmm(part.square().sum(-1) + square, states, part.T, alpha=-2.0)
        found[:, start : start + size] = squared.clamp_min_(0.0).sqrt_()
    return found
