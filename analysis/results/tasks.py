"""What a model did on the prompts of a task."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.results.base import Floats, Ints, check_shape


@dataclass(frozen=True, slots=True)
class Outcome:
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
class Share:
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
class EmergenceCurve:
    """Over the answer tokens of some prompts: the share for which a token has come up by a row.

    Attributes:
        name: Which tokens in which prompts.
        count: Answer tokens; 0 leaves NaN everywhere.
        never: Those for which it never comes up.
        by_row: [row] share that has come up at or before the row, 0 to 1.
        low, high: [row] 95 % bootstrap interval, prompts drawn with their tokens together.
        mean, mean_low, mean_high: Mean row of those that come up, with its interval.
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
class EmergenceReport:
    """When answers emerge, right and wrong ones, beside two controls.

    Attributes:
        measure: "saturation" or "first_top1": what "has come up" means.
        accuracy: Of the whole suite.
        by_label: Of the prompts with each value of the label asked for.
        curves: Right answers, wrong answers, the right token in wrong answers, an answer of the
            same frequency, and the right token with the prompt shuffled.
    """

    measure: str
    accuracy: Share
    by_label: tuple[Share, ...]
    curves: tuple[EmergenceCurve, ...]


@dataclass(frozen=True, slots=True)
class SuiteReport:
    """A suite on one model, prompt by prompt.

    Attributes:
        title: The suite's.
        prompts, answers: [prompt] what was asked, and what is right.
        written: [prompt] what the model says, up to its first wrong token.
        lengths: [prompt] tokens of the answer.
        right: [prompt] 1 where the whole answer is right.
        rows: [prompt] mean row at which the model's choices come up; NaN where none does.
        emergence: Over all of them, beside the controls.
    """

    title: str
    prompts: tuple[str, ...]
    answers: tuple[str, ...]
    written: tuple[str, ...]
    lengths: tuple[int, ...]
    right: Ints
    rows: Floats
    emergence: EmergenceReport

    def __post_init__(self) -> None:
        check_shape("right", self.right, (len(self.prompts),))
        check_shape("rows", self.rows, (len(self.prompts),))


@dataclass(frozen=True, slots=True)
class ContributionReport:
    """What writes each answer digit, and what each head reads to do so; means over sums.

    Contributions are logits of the right digit less those of the digit that the other carry
    would give (direct logit attribution, the final norm's scale frozen).

    Attributes:
        columns: [digit] the answer's columns.
        sources: [source] names of the positions read.
        counts: [digit, 2] sums without and with a carry into the column.
        heads: [digit, 2, layer, head]. mlps: [digit, 2, layer]. embedding: [digit, 2].
        spread: [digit, 2, layer, head] half a 95 % interval of ``heads``.
        attention: [digit, layer, head, source] mean pattern from the position that predicts the
            digit.
    """

    columns: Ints
    sources: tuple[str, ...]
    counts: Ints
    heads: Floats
    mlps: Floats
    embedding: Floats
    spread: Floats
    attention: Floats

    def __post_init__(self) -> None:
        check_shape("heads", self.heads, (len(self.columns), 2, None, None))
        check_shape("attention", self.attention, (len(self.columns), None, None, len(self.sources)))


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """How well a linear probe reads each fact off each state, on sums it was not fitted on.

    Attributes:
        components: [component] "row 0", "attention 0", "head 0.3", "mlp 0", ...
        places: [place] names of the positions.
        targets: [target] "carry1" to "carry5" (into the column), "sum0" to "sum4" (raw).
        accuracy: [target, component, place] balanced for carries, plain for the raw sums.
        control: The same with the labels shuffled.
        chance: [target] what guessing gives.
        fitted, held_out: Sums.
    """

    components: tuple[str, ...]
    places: tuple[str, ...]
    targets: tuple[str, ...]
    accuracy: Floats
    control: Floats
    chance: Floats
    fitted: int
    held_out: int

    def __post_init__(self) -> None:
        shape = (len(self.targets), len(self.components), len(self.places))
        check_shape("accuracy", self.accuracy, shape)
        check_shape("control", self.control, shape)


@dataclass(frozen=True, slots=True)
class Projection:
    """States of one component at one place on their two main axes (PCA).

    Attributes:
        component, place: Which states.
        points: [sum, 2]. explained: [2] share of the variance.
        carry: [sum] the carry into the column. digit_sum: [sum] its two digits added.
        column: Which column.
    """

    component: str
    place: str
    points: Floats
    explained: Floats
    carry: Ints
    digit_sum: Ints
    column: int


@dataclass(frozen=True, slots=True)
class PatchReport:
    """A component taken from a sum with a carry into one without: does the digit become one more?

    Attributes:
        components: [component]. places: [place], the last one "everywhere".
        columns: [column] the carry into which is handed over.
        effect: [column, component, place] share of pairs whose digit becomes one more.
        control: The same with a donor that has no carry either.
        pairs: [column].
    """

    components: tuple[str, ...]
    places: tuple[str, ...]
    columns: Ints
    effect: Floats
    control: Floats
    pairs: Ints

    def __post_init__(self) -> None:
        shape = (len(self.columns), len(self.components), len(self.places))
        check_shape("effect", self.effect, shape)
        check_shape("control", self.control, shape)


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


@dataclass(frozen=True, slots=True)
class FailureReport:
    """Pairs of a right and a wrong answer, the likest first; none where all are right or wrong."""

    pairs: tuple[Parting, ...]
    right: int
    wrong: int
