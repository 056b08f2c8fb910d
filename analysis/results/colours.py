"""What cells of a grid are coloured by, and where several decoders disagree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.results.base import Floats, Ints, Token, check_shape

#: The parts of a block's output, in the order of ``Colours.shares``.
SHARE_PARTS = ("residual", "attention", "mlp")


@dataclass(frozen=True, slots=True)
class Colours:
    """Quantities of the cells of a grid. What was not asked for is NaN.

    Attributes:
        rows: [row] which rows (layers, for a component of a layer) the first axis holds.
        positions: [pos] which positions the second axis holds.
        cross_entropy: [row, pos] minus log-probability of the token that really comes next under
            the cell's reading, nats; NaN at the last position, and where cosine or Euclidean
            similarity gives no distribution.
        rank_change: [row, pos] rank that the cell's first candidate has one row before (read with
            that row's own decoder), minus its rank here: positive where it rose; NaN at entry 0.
        state_norm: [row, pos] L2 norm of the state as it is, before any norm.
        cosine_before: [row, pos] cosine of the state to the one before on the first axis, -1 to 1;
            NaN at entry 0, and beside a state of zeros.
        layers: [layer] the blocks of ``shares``: all of them.
        methods: How shares were taken, in the order of the first axis of ``shares``.
        shares: [method, part, layer, pos] shares of residual, attention and MLP (``SHARE_PARTS``)
            in the output of each block, 0 to 1; they sum to 1. The denominator is the block's
            output, ``residual + attention + MLP``, in sequential and parallel blocks alike.
        fallback: [layer, pos] whether every part's proximity was 0, so that norm shares stand in.
        parallel_blocks: Whether attention and MLP read the same state.
        quantities: What was computed.
        component, decoder, norm, similarity: Of the grid.
    """

    rows: Ints
    positions: Ints
    cross_entropy: Floats
    rank_change: Floats
    state_norm: Floats
    cosine_before: Floats
    layers: Ints
    methods: tuple[str, ...]
    shares: Floats
    fallback: NDArray[np.bool_]
    parallel_blocks: bool
    quantities: tuple[str, ...]
    component: str = "block_output"
    decoder: str = "output"
    norm: str = "full"
    similarity: str = "dot"

    def __post_init__(self) -> None:
        cells = (len(self.rows), len(self.positions))
        for name in ("cross_entropy", "rank_change", "state_norm", "cosine_before"):
            check_shape(name, getattr(self, name), cells)
        shape = (len(self.methods), len(SHARE_PARTS), len(self.layers), len(self.positions))
        check_shape("shares", self.shares, shape)
        check_shape("fallback", self.fallback, shape[2:])

    def share(self, part: str, method: str) -> Floats:
        """[layer, pos] the share of "residual", "attention" or "mlp" by one method.

        Raises:
            ValueError: If the method was not asked for, or there is no such part.
        """
        found: Floats = self.shares[self.methods.index(method), SHARE_PARTS.index(part)]
        return found


@dataclass(frozen=True, slots=True)
class Disagreement:
    """How far the readings of several decoders differ, cell by cell.

    Attributes:
        rows: [row]. positions: [pos].
        decoders: Their names.
        top1: [decoder, row, pos] each decoder's most probable token.
        agreement: [row, pos] share of pairs of decoders with the same one, 0 to 1.
        divergence: [row, pos] Jensen-Shannon divergence of all their distributions with equal
            weights, nats: 0 to ``ln`` of their number.
        coincide: Decoders of which each group holds is one and the same on this model, so that
            their agreement says nothing; groups of one are left out.
        norm: What states were normed by.
        vocabulary: Every token named above, by ascending id.
    """

    rows: Ints
    positions: Ints
    decoders: tuple[str, ...]
    top1: Ints
    agreement: Floats
    divergence: Floats
    coincide: tuple[tuple[str, ...], ...]
    norm: str
    vocabulary: tuple[Token, ...]

    def __post_init__(self) -> None:
        cells = (len(self.rows), len(self.positions))
        check_shape("top1", self.top1, (len(self.decoders), *cells))
        check_shape("agreement", self.agreement, cells)
        check_shape("divergence", self.divergence, cells)

    @property
    def all_coincide(self) -> bool:
        """Whether there is only one reading under several names."""
        return any(len(group) == len(self.decoders) for group in self.coincide)
