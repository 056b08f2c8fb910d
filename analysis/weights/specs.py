"""Specs and results of reports on the weights of heads and MLPs, and the kinds of heads."""

from __future__ import annotations

from dataclasses import dataclass, field

from analysis.contract.choices import Choice, Choices, about
from analysis.contract.specs import Floats, Ints, Result, Spec, Token, check_shape
from analysis.errors import SpecError

KINDS = Choices(
    "kind of head",
    Choice(
        "previous", "Previous token", "mean w[q, q − 1]",
        "The mean weight on the token before the query.",
    ),
    Choice(
        "duplicate", "Duplicate token", "mean w[q, q − n]",
        "In the second copy of the sequence: the mean weight on the same token in the first copy.",
    ),
    Choice(
        "induction", "Induction", "mean w[q, q − n + 1]",
        "In the second copy: the mean weight on the token after the same token in the first copy.",
        "Olsson et al. 2022, arXiv 2209.11895",
    ),
    Choice(
        "copy", "Copy", "share of tokens t with t = argmax of x_t · W_OV · U",
        "The copying score: the share of sampled tokens that the head, when it reads them, promotes"
        " most among all sampled tokens. It comes from the weights alone.",
        "Elhage et al. 2021, copying heads",
    ),
    Choice(
        "sink", "Sink", "mean w[q, 0]",
        "The mean weight on the first token, and on no token, from the third token on.",
        "Xiao et al. 2023, arXiv 2309.17453",
    ),
    help="What a head does on a seeded random sequence that is repeated once.",
)  # fmt: skip


#: Most tokens in a list and most directions that a spec can ask for.
MOST_TOKENS, MOST_DIRECTIONS = 50, 32


@dataclass(frozen=True, slots=True)
class Circuits(Result):
    """What one head's weights read, look for and write, as tokens.

    Token lists are best first, as ids. A direction has two ends: tokens with the largest and with
    the smallest score along it. Both vectors of a pair may change sign together.

    Attributes:
        layer, head, kv_head: The head, and the keys and values that it uses.
        d_key, d_head: Size of its queries and keys, and of its values.
        ov_values: [rank] singular values of W_OV. qk_values: [rank] of W_QK.
        ov_read, ov_write: [direction, 2, k] tokens along the singular vectors that the head reads
            and writes (Millidge and Black 2022).
        qk_query, qk_key: [direction, 2, k] along those of queries and of keys.
        copying: The share of ``sampled`` tokens that the head raises more than every other sampled
            token when it reads them, 0 to 1; 1 / sampled is the level of chance.
        raised: The share of them whose own logit it raises above the sample's mean; chance is 0.5.
        sampled, seed: The sample of tokens, and its seed. exact: Whether it is all tokens.
        tokens: [n] tokens whose readings are listed.
        promoted, suppressed: [n, k] what reading the token makes more and less likely.
        promoted_logits, suppressed_logits: [n, k] its logits, up to the final norm's factor.
        keys: [n, k] keys that a query with this token looks for most. key_scores: [n, k] scores
            before the softmax at distance 0.
        notes: What is left out, one sentence each.
        vocabulary: The tokens that occur.
    """

    layer: int
    head: int
    kv_head: int
    d_key: int
    d_head: int
    ov_values: Floats
    qk_values: Floats
    ov_read: Ints
    ov_write: Ints
    qk_query: Ints
    qk_key: Ints
    copying: float
    raised: float
    sampled: int
    seed: int
    exact: bool
    tokens: Ints
    promoted: Ints
    promoted_logits: Floats
    suppressed: Ints
    suppressed_logits: Floats
    keys: Ints
    key_scores: Floats
    notes: tuple[str, ...]
    vocabulary: tuple[Token, ...]

    def __post_init__(self) -> None:
        for name in ("ov_write", "qk_query", "qk_key"):
            check_shape(name, getattr(self, name), self.ov_read.shape)
        for name in ("promoted_logits", "suppressed", "suppressed_logits", "keys", "key_scores"):
            check_shape(name, getattr(self, name), self.promoted.shape)


@dataclass(frozen=True, slots=True)
class CircuitSpec(Spec[Circuits]):
    """One head's OV and QK circuit, read as tokens."""

    layer: int = field(metadata=about("The block."))
    head: int = field(metadata=about("The head."))
    token: int | None = field(
        default=None,
        metadata=about(
            "The id of the token that the head reads; the tokens that it moves most unless given."
        ),
    )
    k: int = field(default=8, metadata=about("Tokens in each list, 1 to 50."))
    directions: int = field(default=4, metadata=about("Pairs of singular vectors, 1 to 32."))
    sample: int | None = field(
        default=2048,
        metadata=about("Tokens in the sample of the copying score; all tokens if none."),
    )
    seed: int = field(default=0, metadata=about("The seed of the sample."))

    def __post_init__(self) -> None:
        if not 1 <= self.k <= MOST_TOKENS:
            raise SpecError(f"A list of {self.k} tokens is not possible.", "Choose 1 to 50 tokens.")
        if not 1 <= self.directions <= MOST_DIRECTIONS:
            raise SpecError(
                f"{self.directions} directions are not possible.", "Choose 1 to 32 directions."
            )
        if self.sample is not None and self.sample < 2:
            raise SpecError("The sample has fewer than 2 tokens.", "Choose a larger sample.")


@dataclass(frozen=True, slots=True)
class StateCircuits(Result):
    """What one head writes and looks for when it reads the states of a prompt, as tokens.

    Attributes:
        layer, head: The head. row: The row of the states.
        tokens: [pos] the prompt's tokens.
        own_ranks: [pos] rank of the position's own token among all tokens, by what the head writes
            from its state; 1: it promotes that token most. -1 for a token without a row.
        promoted, suppressed: [pos, k] what the head makes more and less likely if it reads the
            state. promoted_logits, suppressed_logits: [pos, k] their logits, up to the final norm's
            factor.
        keys: [pos, k] tokens whose embeddings a query from the state looks for most.
            key_scores: [pos, k] scores before the softmax at distance 0.
        notes: What is left out, one sentence each.
        vocabulary: The tokens that occur.
    """

    layer: int
    head: int
    row: int
    tokens: Ints
    own_ranks: Ints
    promoted: Ints
    promoted_logits: Floats
    suppressed: Ints
    suppressed_logits: Floats
    keys: Ints
    key_scores: Floats
    notes: tuple[str, ...]
    vocabulary: tuple[Token, ...]

    def __post_init__(self) -> None:
        check_shape("own_ranks", self.own_ranks, self.tokens.shape)
        for name in ("promoted_logits", "suppressed", "suppressed_logits", "keys", "key_scores"):
            check_shape(name, getattr(self, name), self.promoted.shape)

    @property
    def copying(self) -> float:
        """The share of positions whose own token the head promotes most, 0 to 1."""
        return float((self.own_ranks == 1).mean())


@dataclass(frozen=True, slots=True)
class StateCircuitSpec(Spec[StateCircuits]):
    """One head's OV and QK circuit for the states of a row, read as tokens."""

    layer: int = field(metadata=about("The block."))
    head: int = field(metadata=about("The head."))
    row: int | None = field(
        default=None,
        metadata=about("The row whose states are read; the head's own input unless given."),
    )
    k: int = field(default=8, metadata=about("Tokens in each list, 1 to 50."))

    def __post_init__(self) -> None:
        if not 1 <= self.k <= MOST_TOKENS:
            raise SpecError(f"A list of {self.k} tokens is not possible.", "Choose 1 to 50 tokens.")


@dataclass(frozen=True, slots=True)
class WeightReport(Result):
    """The weights of all blocks: kinds of heads, composition between heads, and norms.

    Attributes:
        layers, heads: [n] layer and head of each head, in the model's order.
        kinds: [kind, n] scores of ``KINDS``, 0 to 1.
        repeated: Number of tokens in the sequence before it repeats.
        sampled, seed: Tokens in the sample of the copying score; the seed of both.
        norm_names: Names of the matrices: W_Q, W_K, W_V, W_O, and the MLP's by their name in the
            model.
        norms: [name, layer] Frobenius norms; NaN where a layer has no such matrix. Of experts, the
            mean.
        composition: [3, n, n] Q-, K- and V-composition from the first head to the second, 0 to 1;
            NaN unless the second is in a later layer. Empty if it was left out.
        baseline: The same for seeded random matrices of one head's shape.
        notes: What is left out, one sentence each.
    """

    layers: Ints
    heads: Ints
    kinds: Floats
    repeated: int
    sampled: int
    seed: int
    norm_names: tuple[str, ...]
    norms: Floats
    composition: Floats
    baseline: float
    notes: tuple[str, ...]

    def __post_init__(self) -> None:
        check_shape("kinds", self.kinds, (len(KINDS), len(self.layers)))
        check_shape("norms", self.norms, (len(self.norm_names), None))


@dataclass(frozen=True, slots=True)
class WeightSpec(Spec[WeightReport]):
    """Kinds of heads, composition scores and norms of all blocks."""

    seed: int = field(
        default=0, metadata=about("The seed of the repeated sequence and of the sampled tokens.")
    )
    composition: bool = field(
        default=True, metadata=about("Whether composition scores between heads are computed.")
    )
