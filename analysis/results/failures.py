"""Where a right and a wrong answer part ways."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.results.base import Floats, Ints, check_shape


@dataclass(frozen=True, slots=True)
class FlowChange:
    """How the flow into the state that predicts a token differs between two runs.

    Flow is ``method`` (proximity), from that state down to the embeddings, nothing pruned.

    Attributes:
        method: How shares are computed.
        right, wrong: [row, pos] part of the mass that passes through each state, 0 to 1.
        apart: [row] half the sum of absolute differences: 0 the same, 1 no mass in common.
        kinds: [link] of the links that differ most: "attention", "mlp", ...
        layers, heads: [link] a head is -1 where there is none.
        sources, targets: [link] positions. right_links, wrong_links: [link] flow, 0 to 1.
    """

    method: str
    right: Floats
    wrong: Floats
    apart: Floats
    kinds: tuple[str, ...]
    layers: Ints
    heads: Ints
    sources: Ints
    targets: Ints
    right_links: Floats
    wrong_links: Floats

    def __post_init__(self) -> None:
        check_shape("wrong", self.wrong, self.right.shape)
        check_shape("apart", self.apart, self.right.shape[:1])
        for name in ("layers", "heads", "sources", "targets", "right_links", "wrong_links"):
            check_shape(name, getattr(self, name), (len(self.kinds),))


@dataclass(frozen=True, slots=True)
class Answered:
    """A prompt of a suite as a person reads it.

    Attributes:
        prompt, answer: What was asked, and what is right.
        written: What the model says, up to its first wrong token.
        length: Tokens of the answer.
    """

    prompt: str
    answer: str
    written: str
    length: int


@dataclass(frozen=True, slots=True)
class Parting:
    """A prompt answered wrongly beside the likest one answered rightly.

    Attributes:
        right, wrong: Places of the two prompts in the suite.
        token: The answer token, counted from 0, at which the wrong one first goes wrong.
        rows: [row, pos] distance of the two states over the larger norm, up to the
            state that predicts that token.
        heads: [layer, head] the same of each head's output at the state that predicts it.
        mlps: [layer] and of each MLP's.
        right_probs, wrong_probs: [row] probability of each prompt's own right token.
        first: (row, pos) of the first state, row by row, that differs by more than half where
            both prompts have the same token; None if there is none.
        flows: How the flow into the state that predicts the token differs; None where the model's
            heads can't be told apart.
        right_tokens, wrong_tokens: [pos] what was read, as text.
        asked_right, asked_wrong: The two prompts.
    """

    right: int
    wrong: int
    token: int
    rows: Floats
    heads: Floats
    mlps: Floats
    right_probs: Floats
    wrong_probs: Floats
    first: tuple[int, int] | None
    flows: FlowChange | None = None
    right_tokens: tuple[str, ...] = ()
    wrong_tokens: tuple[str, ...] = ()
    asked_right: Answered | None = None
    asked_wrong: Answered | None = None


@dataclass(frozen=True, slots=True)
class FailureReport:
    """Pairs of a right and a wrong answer, the likest first; none where all are right or wrong.

    Attributes:
        pairs: The likest first.
        right, wrong: How many answers are.
        alone: Wrong answers without a right one of equal length to hold them against.
        paired: Wrong answers that have one; ``pairs`` are the likest of these. The other wrong
            ones say the whole answer and then go on with a digit.
    """

    pairs: tuple[Parting, ...]
    right: int
    wrong: int
    alone: int = 0
    paired: int = 0
