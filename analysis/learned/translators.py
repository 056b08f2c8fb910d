"""The lenses: one translator per row, then the model's own norm and unembedding.

Source: Belrose et al. 2023, arXiv 2303.08112, eq. 7 (affine translator before the logit lens) and
the residual parametrisation of its code: ``lens_row(h) = logits(h + W_row h + b_row)``, W and b 0
at the start, so that training begins at the logit lens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from analysis.model.readout import Readout


class Translator(nn.Module, ABC):
    """One row's affine map into the last row's coordinates: ``h + scale_out (M (h/scale_in) + b)``.

    The two scales are constants of the row. They condition the training and let M be stored in
    16 bits. The map is affine, with W = ``scale_out M diag(1/scale_in)``.

    Args:
        scale_in: [d_model] typical size of each coordinate of the row's states.
        scale_out: [] typical root mean square of those states.
    """

    scale_in: Tensor
    scale_out: Tensor

    def __init__(self, scale_in: Tensor, scale_out: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale_in", scale_in.clone())
        self.register_buffer("scale_out", scale_out.clone())
        self.bias = nn.Parameter(torch.zeros(len(scale_in)))

    @abstractmethod
    def product(self, scaled: Tensor) -> Tensor:
        """M times scaled states, [n, d_model]."""

    def forward(self, states: Tensor) -> Tensor:
        """[n, d_model] states of the row, translated to the last row."""
        return states + self.scale_out * (self.product(states / self.scale_in) + self.bias)


class FullTranslator(Translator):
    """M is any matrix, 0 at the start."""

    def __init__(self, scale_in: Tensor, scale_out: Tensor) -> None:
        super().__init__(scale_in, scale_out)
        width = len(scale_in)
        self.matrix = nn.Parameter(torch.zeros(width, width))

    def product(self, scaled: Tensor) -> Tensor:
        """M times scaled states."""
        return scaled @ self.matrix.T


class LowRankTranslator(Translator):
    """M is ``up @ down``: up is 0 at the start, down random with rows of about unit length.

    Args:
        scale_in: [d_model].
        scale_out: [].
        rank: Rank of M.
        generator: Random generator for ``down``.
    """

    def __init__(
        self, scale_in: Tensor, scale_out: Tensor, rank: int, generator: torch.Generator
    ) -> None:
        super().__init__(scale_in, scale_out)
        width = len(scale_in)
        drawn = torch.randn(rank, width, generator=generator)
        self.down = nn.Parameter(drawn / width**0.5)
        self.up = nn.Parameter(torch.zeros(width, rank))

    def product(self, scaled: Tensor) -> Tensor:
        """M times scaled states."""
        return (scaled @ self.down.T) @ self.up.T


class Lens(ABC):
    """Decodes any row as the model decodes its last one."""

    @abstractmethod
    def translate(self, states: Tensor, row: int) -> Tensor:
        """States [n, d_model] of a row, translated to the last row."""

    def logits(self, readout: Readout, states: Tensor, row: int) -> Tensor:
        """Float32 logits [n, vocab] by the model's own final norm, unembedding and cap."""
        moved = self.translate(states.float(), row)
        return readout.logits(moved.to(readout.device, readout.output_rows.dtype))


class LogitLens(Lens):
    """No translation (nostalgebraist 2020)."""

    def translate(self, states: Tensor, row: int) -> Tensor:
        """The states unchanged."""
        return states


class LearnedLens(Lens):
    """A translator for each row before the last; the last row is the model's own output.

    Args:
        translators: One for each row before the last.
    """

    def __init__(self, translators: nn.ModuleList) -> None:
        self.translators = translators

    @property
    def rank(self) -> int:
        """Rank of the translators; 0 for full matrices."""
        first = self.translators[0]
        return first.down.shape[0] if isinstance(first, LowRankTranslator) else 0

    @property
    def d_model(self) -> int:
        """Width of the states."""
        first = self.translators[0]
        return len(first.bias) if isinstance(first, Translator) else 0

    def translate(self, states: Tensor, row: int) -> Tensor:
        """States [n, d_model], float32, of a row, translated to the last row."""
        if row == len(self.translators):
            return states
        moved: Tensor = self.translators[row](states)
        return moved


def new_lens(scale_in: Tensor, scale_out: Tensor, rank: int, seed: int) -> LearnedLens:
    """An untrained lens, equal to the logit lens.

    Args:
        scale_in: [row, d_model] typical sizes of the coordinates, rows before the last.
        scale_out: [row].
        rank: Rank of the translators; 0 for full matrices.
        seed: Seed of the low-rank translators' initial values.
    """
    generator = torch.Generator().manual_seed(seed)
    made: list[Translator] = [
        LowRankTranslator(inner, outer, rank, generator) if rank else FullTranslator(inner, outer)
        for inner, outer in zip(scale_in, scale_out, strict=True)
    ]
    return LearnedLens(nn.ModuleList(made))
