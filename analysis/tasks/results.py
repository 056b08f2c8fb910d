"""Results of a suite: outcomes, emergence, and where right and wrong answers part."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.contract.results import Floats, Ints, Result, check_shape


@dataclass(frozen=True, slots=True)
class Outcome(Result):
    """One prompt, read with the right answer after it: what the rows say of each answer token.

    Attributes:
        token_ids: Prompt and right answer.
        start: Position of the answer's first token; the state before it predicts it.
        choices: [answer + 1] the model's first choice at each answer token, and after the last.
        right_probs, right_ranks: [row, answer] the right token under the logit lens.
        choice_probs, choice_ranks: [row, answer] the model's own final choice.
        other_ids: [answer] another token followed there, -1 for none: a foil.
        other_probs, other_ranks: [row, answer] that token; NaN and -1 where there is none.
    """

    token_ids: tuple[int, ...]
    start: int
    choices: Ints
    right_probs: Floats
    right_ranks: Ints
    choice_probs: Floats
    choice_ranks: Ints
    other_ids: Ints
    other_probs: Floats
    other_ranks: Ints

    def __post_init__(self) -> None:
        count = len(self.token_ids) - self.start
        check_shape("choices", self.choices, (count + 1,))
        check_shape("other_ids", self.other_ids, (count,))
        for name in ("right", "choice", "other"):
            for kind in ("probs", "ranks"):
                table = getattr(self, f"{name}_{kind}")
                check_shape(f"{name}_{kind}", table, (len(self.right_probs), count))

    @property
    def right_ids(self) -> tuple[int, ...]:
        """[answer] the right answer's tokens."""
        return self.token_ids[self.start :]

    @property
    def hits(self) -> tuple[bool, ...]:
        """[answer] whether the model chooses the right token after the right ones before it."""
        return tuple(
            bool(choice == right)
            for choice, right in zip(self.choices[:-1], self.right_ids, strict=True)
        )

    @property
    def right(self) -> bool:
        """Whether greedy decoding writes the whole answer (more may follow it)."""
        return all(self.hits)


@dataclass(frozen=True, slots=True)
class Share(Result):
    """How many of some prompts, with a 95 % Wilson interval.

    Attributes:
        name: Which prompts.
        hits, total: Counts.
        low, high: The interval of the share, 0 to 1.
    """

    name: str
    hits: int
    total: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """0 to 1; NaN of none."""
        return self.hits / self.total if self.total else float("nan")


@dataclass(frozen=True, slots=True)
class EmergenceCurve(Result):
    """Over the answer tokens of some prompts: the share for which a token has come up by a row.

    Attributes:
        name: Which tokens in which prompts.
        count: Answer tokens; 0 leaves NaN everywhere.
        never: Those for which it never comes up.
        by_row: [row] share that has come up at or before the row, 0 to 1.
        low, high: [row] 95 % bootstrap interval, prompts drawn with their tokens together, and
            no narrower than Wilson's with prompts counted.
        mean, mean_low, mean_high: Mean row of those that come up, with its bootstrap interval;
            NaN where there are fewer than ten prompts.
        rows: [count] the row of each; -1 for never.
        prompts: [count] the prompt each belongs to.
    """

    name: str
    count: int
    never: int
    by_row: Floats
    low: Floats
    high: Floats
    mean: float
    mean_low: float
    mean_high: float
    rows: Ints
    prompts: Ints


@dataclass(frozen=True, slots=True)
class EmergenceReport(Result):
    """When answers emerge, right and wrong ones, beside two controls.

    Attributes:
        measure: "saturation" or "first_top1": what "has come up" means.
        accuracy: Of the whole suite.
        by_label: Of the prompts with each value of the label asked for.
        curves: Right answers, wrong answers, the right token in wrong answers, an answer of the
            same frequency, and the right token with the prompt shuffled.
        by_digit: Right and wrong answers again, one place of the answer at a time: the digit of
            each column where answers are sums ("answer2: right"), else the tokens in order.
    """

    measure: str
    accuracy: Share
    by_label: tuple[Share, ...]
    curves: tuple[EmergenceCurve, ...]
    by_digit: tuple[EmergenceCurve, ...] = ()


@dataclass(frozen=True, slots=True)
class SuiteReport(Result):
    """A suite on one model, prompt by prompt.

    Attributes:
        title: The suite's.
        prompts, answers: [prompt] what was asked, and what is right.
        written: [prompt] what the model says, up to its first wrong token.
        lengths: [prompt] tokens of the answer.
        right: [prompt] 1 where the whole answer is right.
        rows: [prompt] mean row at which the model's choices come up; NaN where none does.
        emergence: Over all of them, beside the controls.
        groups: [prompt] in which of ``emergence.by_label`` it counts, by its name; empty: none.
    """

    title: str
    prompts: tuple[str, ...]
    answers: tuple[str, ...]
    written: tuple[str, ...]
    lengths: tuple[int, ...]
    right: Ints
    rows: Floats
    emergence: EmergenceReport
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_shape("right", self.right, (len(self.prompts),))
        check_shape("rows", self.rows, (len(self.prompts),))


@dataclass(frozen=True, slots=True)
class FlowChange(Result):
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
class Answered(Result):
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
class Parting(Result):
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
class FailureReport(Result):
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
