"""The results of reading hidden states as tokens."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.results.base import Floats, Ints, Token, check_shape


@dataclass(frozen=True, slots=True)
class Grid:
    """Hidden states read through the unembedding (or another decoder).

    A source position's share of a head has no state at positions before the source: nothing is
    read there, and the cell is empty (ids -1, values NaN).

    Attributes:
        rows: [row] which rows (layers, for a component of a layer) the first axis holds.
        positions: [pos] which positions the second axis holds.
        token_ids: [row, pos, k] candidates, best first; -1 pads a short list.
        probs: [row, pos, k] their probabilities, 0 to 1; NaN where there are none.
        scores: [row, pos, k] the values they were ranked by (logits, cosines, minus distances).
        entropy: [row, pos] of the cell's distribution, nats.
        kl_to_final: [row, pos] KL(model's output || cell's distribution), nats.
        target_ids: [target] tokens asked about; empty where none were.
        target_probs: [row, pos, target] their probabilities.
        target_ranks: [row, pos, target] their ranks (0 is best), on logits, ties in their favour;
            -1 in a cell without a state.
        chosen: [row, pos] 0 where the output decoder read the cell, 1 where the input decoder did.
        explained: [row, pos, k] share of the state explained so far (matching pursuit), else NaN.
        single_target: Whether one token id, not a list, was asked about.
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
