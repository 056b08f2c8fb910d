"""Results of the lens: grids of tokens, colours, disagreement, promoted tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.contract.specs import Floats, Ints, Result, Token, check_shape


@dataclass(frozen=True, slots=True)
class Grid(Result):
    """States decoded with the unembedding or another decoder.

    What a head adds from one source position has no state at earlier positions: such a cell is
    empty (ids -1, values NaN).

    Attributes:
        rows: [row] the rows (layers, for a component of a layer) of the first axis.
        positions: [pos] the positions of the second axis.
        token_ids: [row, pos, k] candidates, best first; -1 pads a short list.
        probs: [row, pos, k] their probabilities, 0 to 1; NaN where there are none.
        scores: [row, pos, k] the values they were ranked by (logits, cosines, minus distances).
        entropy: [row, pos] of the cell's distribution, nats.
        kl_to_final: [row, pos] KL(model's output || cell's distribution), nats.
        target_ids: [target] the tokens that are followed; may be empty.
        target_probs: [row, pos, target] their probabilities.
        target_ranks: [row, pos, target] their ranks (0 is best), on logits, ties in their favour;
            -1 in a cell without a state.
        chosen: [row, pos] the matrix that decoded the cell: 0 output, 1 input.
        explained: [row, pos, k] share of the state explained so far (matching pursuit), else NaN.
        single_target: Whether ``target`` was one token id, not a list.
        vocabulary: Every token named above, by ascending id.
    """

    rows: Ints
    positions: Ints
    token_ids: Ints
    probs: Floats
    scores: Floats
    entropy: Floats
    kl_to_final: Floats
    target_ids: Ints
    target_probs: Floats
    target_ranks: Ints
    chosen: Ints
    explained: Floats
    single_target: bool
    vocabulary: tuple[Token, ...]
    component: str = "block_output"
    decoder: str = "output"
    norm: str = "full"
    similarity: str = "dot"

    def __post_init__(self) -> None:
        cells = (len(self.rows), len(self.positions))
        check_shape("token_ids", self.token_ids, (*cells, None))
        for name in ("probs", "scores", "explained"):
            check_shape(name, getattr(self, name), self.token_ids.shape)
        for name in ("entropy", "kl_to_final", "chosen"):
            check_shape(name, getattr(self, name), cells)
        for name in ("target_probs", "target_ranks"):
            check_shape(name, getattr(self, name), (*cells, len(self.target_ids)))

    @property
    def target_prob(self) -> Floats:
        """[row, pos] for one target id, [row, pos, target] for a list."""
        return self.target_probs[..., 0] if self.single_target else self.target_probs

    @property
    def target_rank(self) -> Ints:
        """[row, pos] for one target id, [row, pos, target] for a list."""
        return self.target_ranks[..., 0] if self.single_target else self.target_ranks

    def token(self, token_id: int) -> Token:
        """The vocabulary entry of a token named in this grid."""
        return next(token for token in self.vocabulary if token.id == token_id)


#: The parts of a block's output, in the order of ``Colours.shares``.
SHARE_PARTS = ("residual", "attention", "mlp")


@dataclass(frozen=True, slots=True)
class Colours(Result):
    """Quantities of the cells of a grid. A quantity that was not requested is NaN.

    Attributes:
        rows: [row] the rows (layers, for a component of a layer) of the first axis.
        positions: [pos] the positions of the second axis.
        cross_entropy: [row, pos] minus log-probability of the prompt's own next token in the
            cell, nats; NaN at the last position, and where cosine or Euclidean similarity gives
            no distribution.
        rank_change: [row, pos] rank that the cell's first candidate has one row before (read with
            that row's own decoder), minus its rank here: positive where it rose; NaN at entry 0.
        state_norm: [row, pos] L2 norm of the state itself, before the final norm.
        cosine_before: [row, pos] cosine of the state to the one before it on the first axis, -1 to
            1; NaN at entry 0, and where one of the two is zero.
        layers: [layer] the blocks of ``shares``: all of them.
        methods: The methods, in the order of the first axis of ``shares``.
        shares: [method, part, layer, pos] shares of residual, attention and MLP (``SHARE_PARTS``),
            then of ``other_parts``, in the output of each block, 0 to 1; they sum to 1. The
            denominator is the block's output, the sum of all parts, in sequential and parallel
            blocks alike.
        fallback: [layer, pos] whether every part's proximity was 0, so that norm shares replace it.
        parallel_blocks: Whether attention and MLP read the same state.
        quantities: What was computed.
        component, decoder, norm, similarity: Of the grid.
        other_parts: Names of further parts of a block, such as "per_layer_embedding".
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
    other_parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        cells = (len(self.rows), len(self.positions))
        for name in ("cross_entropy", "rank_change", "state_norm", "cosine_before"):
            check_shape(name, getattr(self, name), cells)
        parts = len(SHARE_PARTS) + len(self.other_parts)
        shape = (len(self.methods), parts, len(self.layers), len(self.positions))
        check_shape("shares", self.shares, shape)
        check_shape("fallback", self.fallback, shape[2:])

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts, in the order of the second axis of ``shares``."""
        return (*SHARE_PARTS, *self.other_parts)

    def share(self, part: str, method: str) -> Floats:
        """[layer, pos] the share of "residual", "attention", "mlp" or another part by one method.

        Raises:
            ValueError: If the method was not requested, or there is no such part.
        """
        found: Floats = self.shares[self.methods.index(method), self.parts.index(part)]
        return found


@dataclass(frozen=True, slots=True)
class Disagreement(Result):
    """How far several decoders' readings differ, cell by cell.

    Attributes:
        rows: [row]. positions: [pos].
        decoders: Their names.
        top1: [decoder, row, pos] each decoder's most probable token.
        agreement: [row, pos] share of pairs of decoders with the same one, 0 to 1.
        divergence: [row, pos] Jensen-Shannon divergence of all their distributions with equal
            weights, nats: 0 to ``ln`` of their number.
        coincide: Groups of decoders that are the same matrix on this model, so that their
            agreement means nothing; groups of one are left out.
        norm: How states were normalised.
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
        """Whether all the decoders are the same matrix."""
        return any(len(group) == len(self.decoders) for group in self.coincide)


@dataclass(frozen=True, slots=True)
class Promoted(Result):
    """The tokens whose logits one component's output raises and lowers most.

    Attributes:
        component: As in ``LensSpec``. layer: Its entry of the first axis (a row for block outputs).
        position: The position it writes to. head, source: -1 where there is none.
        reading: "direct": through the final norm with its scale frozen at the final state, no
            biases, so that the values of a state's parts add up to its logits before any soft
            cap. "lens": normalised on its own, as in a grid; such values add up to nothing.
        norm: L2 norm of the component's vector.
        promoted: [k] token ids with the largest values, best first. promoted_logits: [k].
        suppressed: [k] those with the lowest values, lowest first. suppressed_logits: [k].
        mean: Mean value over the vocabulary: a shift of all logits, which changes no probability.
        vocabulary: Every token named above, by ascending id.
    """

    component: str
    layer: int
    position: int
    head: int
    source: int
    reading: str
    norm: float
    promoted: Ints
    promoted_logits: Floats
    suppressed: Ints
    suppressed_logits: Floats
    mean: float
    vocabulary: tuple[Token, ...]

    def __post_init__(self) -> None:
        for name in ("promoted_logits", "suppressed", "suppressed_logits"):
            check_shape(name, getattr(self, name), self.promoted.shape)
