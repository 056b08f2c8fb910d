"""Matrices that turn a normed state into scores: output, input, or between the two."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from analysis.models.readout import Readout
from analysis.specs import LensSpec


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
        if self.share == 1.0 or (readout.tied and readout.output_bias is None):
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


def share_of_output(decoder: str, row: int, last_row: int) -> float:
    """Weight of the output decoder at a row: ``s = row / L``, or its square.

    Source: InTraVisTo's interpolated decoders, with rows 0..L (design: decoder).
    """
    fraction = row / last_row
    weights = {"output": 1.0, "input": 0.0, "linear": fraction, "quadratic": fraction**2}
    return weights[decoder]


def readers(readout: Readout, spec: LensSpec, row: int, last_row: int) -> list[Reader]:
    """The readers of a row: one, or both for the maximum of their top probabilities."""
    names = ["output", "input"] if spec.decoder == "max_probability" else [spec.decoder]
    return [Reader(readout, share_of_output(name, row, last_row)) for name in names]


def similarity(reader: Reader, normed: Tensor, kind: str) -> Tensor:
    """[n, vocab] cosine to, or Euclidean distance from, each of the decoder's rows."""
    rows, states = reader.rows(), normed.float()
    if kind == "cosine":
        rows = torch.nn.functional.normalize(rows, dim=-1)
        return torch.nn.functional.normalize(states, dim=-1) @ rows.T
    # The matmul form loses digits where distances are small beside the norms.
    return torch.cdist(states, rows, compute_mode="donot_use_mm_for_euclid_dist")
