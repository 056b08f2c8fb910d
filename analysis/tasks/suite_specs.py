"""Specs and results of a suite: outcomes, emergence, and right beside wrong answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from analysis.contract.choices import Choice, Choices, about, check_choices, one_of
from analysis.contract.specs import Floats, Ints, Result, Spec, check_shape
from analysis.errors import SpecError

MEASURES = Choices(
    "measure",
    Choice("saturation", "Saturation", help="First row from which the token ranks first to the"
           " end.", source="Geva et al., 2022"),
    Choice("first_top1", "First", help="First row where the token ranks first."),
    help="Which row counts as the one where the answer emerges.",
)  # fmt: skip
#: A user's job must leave the queue in minutes.
MAX_PROMPTS = 2000
#: The name of a user's own suite, whose prompts are in ``content``.
OWN = "own"
MODEL = about("A catalogue name.")
SEED = about("The seed of the sample.")


@dataclass(frozen=True, slots=True)
class Outcome(Result):
    """One prompt followed by its right answer: how each answer token emerges over the rows.

    Attributes:
        token_ids: Prompt and right answer.
        start: Position of the answer's first token; the state before it predicts it.
        choices: [answer + 1] the model's top token at each answer token, and after the last.
        right_probs, right_ranks: [row, answer] of the right token, under the logit lens.
        choice_probs, choice_ranks: [row, answer] of the model's own final choice.
        other_ids: [answer] another token that is followed there, a foil; -1 for none.
        other_probs, other_ranks: [row, answer] of that token; NaN and -1 for none.
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
        """[answer] whether the model's top token is right, given the right tokens before it."""
        return tuple(
            bool(choice == right)
            for choice, right in zip(self.choices[:-1], self.right_ids, strict=True)
        )

    @property
    def right(self) -> bool:
        """Whether greedy decoding writes the whole answer; more may follow it."""
        return all(self.hits)


@dataclass(frozen=True, slots=True)
class Share(Result):
    """A share of some prompts, with its 95 % Wilson interval.

    Attributes:
        name: The prompts.
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
        """0 to 1; NaN for no prompts."""
        return self.hits / self.total if self.total else float("nan")


@dataclass(frozen=True, slots=True)
class EmergenceCurve(Result):
    """The share of some answer tokens that have emerged at or before each row.

    Attributes:
        name: The tokens and prompts.
        count: Number of answer tokens; with 0 everything is NaN.
        never: Number of tokens that never emerge.
        by_row: [row] share that has emerged at or before the row, 0 to 1.
        low, high: [row] 95 % bootstrap interval over prompts, no narrower than Wilson's over
            prompts. The tokens of a prompt are resampled together.
        mean, mean_low, mean_high: Mean row of the tokens that emerge, with its bootstrap interval;
            NaN with fewer than ten prompts.
        rows: [count] the row of each token; -1 for never.
        prompts: [count] the prompt of each token.
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
    """When right and wrong answers emerge, with two controls.

    Attributes:
        measure: "saturation" or "first_top1": the row at which a token counts as emerged.
        accuracy: Of the whole suite.
        by_label: Of the prompts with each value of one label.
        curves: Right answers, wrong answers, the right token in wrong answers, an answer of the
            same frequency, and the right token with the prompt shuffled.
        by_digit: Right and wrong answers for each place of the answer: the digit of each column
            if answers are sums ("answer2: right"), else the tokens in order.
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
        title: The suite's title.
        prompts, answers: [prompt] the prompts and their right answers.
        written: [prompt] the model's answer, up to its first wrong token.
        lengths: [prompt] tokens of the right answer.
        right: [prompt] 1 if the whole answer is right, else 0.
        rows: [prompt] mean row at which the model's choices emerge; NaN if none does.
        emergence: Over all prompts, with controls.
        groups: [prompt] its group's name in ``emergence.by_label``; empty for none.
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

    The flow goes from that state down to the embeddings, with nothing pruned.

    Attributes:
        method: How shares are computed.
        right, wrong: [row, pos] part of the mass that passes through each state, 0 to 1.
        distance: [row] half the sum of absolute differences: 0 if equal, 1 with no mass in common.
        kinds: [link] kinds of the links that differ most: "attention", "mlp", ...
        layers, heads: [link] a head is -1 for none.
        sources, targets: [link] positions. right_links, wrong_links: [link] flow, 0 to 1.
    """

    method: str
    right: Floats
    wrong: Floats
    distance: Floats
    kinds: tuple[str, ...]
    layers: Ints
    heads: Ints
    sources: Ints
    targets: Ints
    right_links: Floats
    wrong_links: Floats

    def __post_init__(self) -> None:
        check_shape("wrong", self.wrong, self.right.shape)
        check_shape("distance", self.distance, self.right.shape[:1])
        for name in ("layers", "heads", "sources", "targets", "right_links", "wrong_links"):
            check_shape(name, getattr(self, name), (len(self.kinds),))


@dataclass(frozen=True, slots=True)
class AnsweredPrompt(Result):
    """A prompt of a suite with its answers, as text.

    Attributes:
        prompt, answer: The prompt and its right answer.
        written: The model's answer, up to its first wrong token.
        length: Tokens of the right answer.
    """

    prompt: str
    answer: str
    written: str
    length: int


@dataclass(frozen=True, slots=True)
class AnswerPair(Result):
    """A prompt with a wrong answer, and the most similar prompt with a right one.

    Attributes:
        right, wrong: Indices of the two prompts in the suite.
        token: Index of the first wrong answer token.
        rows: [row, pos] distance of the two states over the larger norm, up to the
            state that predicts that token.
        heads: [layer, head] the same for each head's output at the state that predicts it.
        mlps: [layer] the same for each MLP's output.
        right_probs, wrong_probs: [row] probability of each prompt's own right token.
        first: (row, pos) of the first state, row by row, that differs by more than half although
            both prompts have the same token there; None if there is none.
        flows: How the flow into the state that predicts the token differs; None if the model's
            attention can't be split into heads.
        right_tokens, wrong_tokens: [pos] the tokens of the two prompts, as text.
        right_prompt, wrong_prompt: The two prompts.
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
    right_prompt: AnsweredPrompt | None = None
    wrong_prompt: AnsweredPrompt | None = None


@dataclass(frozen=True, slots=True)
class FailureReport(Result):
    """Pairs of a wrong and a right answer; none if all answers are right or all are wrong.

    Attributes:
        pairs: The most similar first.
        right, wrong: Numbers of right and wrong answers.
        unpaired: Wrong answers without a right one of equal length.
        paired: Wrong answers with one; ``pairs`` are the most similar of these. The other wrong
            answers contain the whole right answer, followed by another digit.
    """

    pairs: tuple[AnswerPair, ...]
    right: int
    wrong: int
    unpaired: int = 0
    paired: int = 0


@dataclass(frozen=True, slots=True)
class SuiteSpec(Spec[SuiteReport]):
    """A suite of prompts, built in or uploaded, run on one model."""

    model: str = field(metadata=MODEL)
    suite: str = field(metadata=about('A built-in suite\'s name, or "own" for an uploaded list.'))
    size: int = field(
        default=100, metadata=about("How many prompts; of an uploaded list, the first ones.")
    )
    seed: int = field(default=0, metadata=SEED)
    digits: int = field(
        default=3,
        metadata=about("Digits of each operand; a model trained on sums keeps its own number."),
    )
    measure: str = field(default="saturation", metadata=one_of(MEASURES))
    content: str = field(default="", metadata=about("An uploaded list as JSON lines; else empty."))
    title: str = field(default="", metadata=about("The title of an uploaded list."))

    def __post_init__(self) -> None:
        check_choices(self)
        check_count("A suite can't have {} prompts.", self.size, MAX_PROMPTS)
        if (self.suite == OWN) != bool(self.content):
            raise SpecError("An uploaded list needs prompts.", "Upload a CSV or JSONL file.")


@dataclass(frozen=True, slots=True)
class FailureSpec(Spec[FailureReport]):
    """Wrong answers of a suite beside the most similar right ones."""

    suite: SuiteSpec = field(metadata=about("The suite."))
    most: int = field(default=3, metadata=about("At most this many pairs, the most similar first."))

    def __post_init__(self) -> None:
        check_count("There can't be {} pairs.", self.most, 20)

    @property
    def model(self) -> str:
        """The suite's model."""
        return self.suite.model


def check_count(message: str, value: int, most: int) -> None:
    """Check that a number is at least 1 and at most ``most``.

    Raises:
        SpecError: If it is not; ``message`` has a place for the number.
    """
    if not 1 <= value <= most:
        raise SpecError(message.format(value), f"Use 1 to {most}.")
