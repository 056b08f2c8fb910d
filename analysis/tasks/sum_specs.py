"""Specs and results of the reports on sums: how a model writes digits and passes on carries."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from analysis.contract.choices import Choice, Choices, about, check_choices, one_of
from analysis.contract.specs import Floats, Ints, Result, Spec, check_shape
from analysis.errors import SpecError
from analysis.tasks.suite_specs import MAX_PROMPTS, MODEL, SEED, check_count

PATCH_POSITIONS = Choices(
    "choice of positions",
    Choice(
        "written", "Where written",
        help="At the state that writes the digit, and at all states together.",
    ),
    Choice("all", "Each", help="At each state on its own as well."),
    help="The positions at which the component is patched.",
)  # fmt: skip
MAX_DIGITS = 15
#: From this score on, a head is said to make carries by its weights alone.
CARRY_SCORE = 0.5

_DIGITS = about("Digits of each operand.")
_SUMS = about("How many sums.")


def _no_ints() -> Ints:
    return np.zeros(0, np.int64)


def _no_table() -> Ints:
    return np.zeros((0, 0), np.int64)


@dataclass(frozen=True, slots=True)
class ContributionReport(Result):
    """What writes each answer digit, and what each head reads for it; means over sums.

    Contributions are logits of the right digit minus those of the digit that the other carry
    would give (direct logit attribution, the final norm's scale frozen).

    Attributes:
        columns: [digit] the answer's columns.
        sources: [source] names of the positions that are attended to.
        counts: [digit, 2] sums without and with a carry into the column.
        heads: [digit, 2, layer, head]. mlps: [digit, 2, layer]. embedding: [digit, 2].
        spread: [digit, 2, layer, head] half a 95 % interval of ``heads``; NaN for a single sum.
        attention: [digit, layer, head, source] mean pattern from the position that predicts the
            digit.
        positions: [digit] the positions that predict them.
        prompts: [sum] the prompts. carry: [sum, digit] the carry into each column.
        length: Tokens of each answer.
    """

    columns: Ints
    sources: tuple[str, ...]
    counts: Ints
    heads: Floats
    mlps: Floats
    embedding: Floats
    spread: Floats
    attention: Floats
    positions: Ints = field(default_factory=_no_ints)
    prompts: tuple[str, ...] = ()
    carry: Ints = field(default_factory=_no_table)
    length: int = 0

    def __post_init__(self) -> None:
        check_shape("heads", self.heads, (len(self.columns), 2, None, None))
        check_shape("attention", self.attention, (len(self.columns), None, None, len(self.sources)))


@dataclass(frozen=True, slots=True)
class ProbeReport(Result):
    """How well a linear probe decodes each fact from each state, on held-out sums.

    Attributes:
        components: [component] "row 0", "attention 0", "head 0.3", "mlp 0", ...
        places: [place] names of the positions.
        targets: [target] "carry1" to "carry5" (the carry into that column), "sum0" to "sum4" (the
            column's sum without the carry).
        accuracy: [target, component, place] balanced accuracy for carries, plain accuracy for sums.
        control: The same with the labels shuffled.
        chance: [target] accuracy of guessing.
        fitted, held_out: Number of sums on which probes were fitted, and on which they were tested.
        positions: [place] their positions.
        written: [target] the place whose state predicts the column's digit: for a carry, the
            column that it enters.
        prompts: [example] some of the sums. values: [example, target] their true values.
        length: Tokens of each answer.
    """

    components: tuple[str, ...]
    places: tuple[str, ...]
    targets: tuple[str, ...]
    accuracy: Floats
    control: Floats
    chance: Floats
    fitted: int
    held_out: int
    positions: Ints = field(default_factory=_no_ints)
    written: Ints = field(default_factory=_no_ints)
    prompts: tuple[str, ...] = ()
    values: Ints = field(default_factory=_no_table)
    length: int = 0

    def __post_init__(self) -> None:
        shape = (len(self.targets), len(self.components), len(self.places))
        check_shape("accuracy", self.accuracy, shape)
        check_shape("control", self.control, shape)


@dataclass(frozen=True, slots=True)
class Projection(Result):
    """States of one component at one place on their two main axes (PCA).

    Attributes:
        component, place: Names of the component and of the position.
        points: [sum, 2]. explained: [2] share of the variance.
        carry: [sum] the carry into the column. digit_sum: [sum] the sum of its two digits.
        column: The column, 0 for the units.
        position: The place's position. prompts: [sum] the prompts. length: Tokens of each answer.
    """

    component: str
    place: str
    points: Floats
    explained: Floats
    carry: Ints
    digit_sum: Ints
    column: int
    position: int = 0
    prompts: tuple[str, ...] = ()
    length: int = 0


@dataclass(frozen=True, slots=True)
class PatchReport(Result):
    """The effect on a digit of patching a component from a sum with a carry into one without.

    Attributes:
        components: [component]. places: [place], the last one "everywhere".
        columns: [column] the columns that the carry enters.
        effect: [column, component, place] share of pairs whose digit becomes one more.
        control: The same with a donor that has no carry either.
        pairs: [column] pairs that the model answers correctly without a patch. Only these are
            patched; with fewer than five the effect is NaN.
        requested: Number of pairs that were tried for each column.
        positions: [column] the position whose state predicts the digit.
        receivers, donors, controls: [column] the sums of one pair: without a carry, with one, and
            the control; empty if the model answers no pair correctly.
        length: Tokens of each answer.
    """

    components: tuple[str, ...]
    places: tuple[str, ...]
    columns: Ints
    effect: Floats
    control: Floats
    pairs: Ints
    requested: int = 0
    positions: Ints = field(default_factory=_no_ints)
    receivers: tuple[str, ...] = ()
    donors: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    length: int = 0

    def __post_init__(self) -> None:
        shape = (len(self.columns), len(self.components), len(self.places))
        check_shape("effect", self.effect, shape)
        check_shape("control", self.control, shape)


@dataclass(frozen=True, slots=True)
class CarryCircuits(Result):
    """How much each head looks like one that makes carries, from its QK and OV circuits alone.

    Attributes:
        layers, heads: [n] layer and head of each head, in the model's order.
        columns: [column] the columns that a carry enters.
        reads: [n, column, digit column] attention weight on the two digits of each column, from the
            state that writes ``columns``.
        carry: [n, column] share of the output's variance, over the 100 pairs of digits in the
            column below, that the carry explains.
        outputs: [n, column, 19] mean output for each sum of these digits (0 to 18): 0 is the mean
            without a carry, 1 the mean with one.
    """

    layers: Ints
    heads: Ints
    columns: Ints
    reads: Floats
    carry: Floats
    outputs: Floats

    def __post_init__(self) -> None:
        shape = (len(self.layers), len(self.columns))
        check_shape("reads", self.reads, (*shape, None))
        check_shape("carry", self.carry, shape)
        check_shape("outputs", self.outputs, (*shape, 19))

    @property
    def below(self) -> Floats:
        """[n, column] attention weight on the two digits of the column below."""
        found = [self.reads[:, at, int(column) - 1] for at, column in enumerate(self.columns)]
        return np.stack(found, -1)

    @property
    def scores(self) -> Floats:
        """[n] mean of ``below`` times ``carry`` over columns, 0 to 1."""
        found: Floats = (self.below * self.carry).mean(-1)
        return found

    @property
    def order(self) -> Ints:
        """[n] the heads, the one with the highest score first."""
        return np.argsort(-self.scores, kind="stable")

    def name(self, at: int) -> str:
        """A head as the other reports name it, such as "head 0.3"."""
        return f"head {self.layers[at]}.{self.heads[at]}"

    @property
    def sentence(self) -> str:
        """The main result, in a few sentences."""
        first = int(self.order[0])
        others = [f"{self.name(int(at))}: {self.scores[at]:.2f}" for at in self.order[1:2]]
        found = self.scores[first] >= CARRY_SCORE
        verdict = "makes carries" if found else "comes closest, but does not make carries by itself"
        return (
            f"By its weights alone, {self.name(first)} {verdict}. Its QK circuit puts"
            f" {self.below[first].mean():.0%} of the attention on the two digits of the column"
            f" below. Over all pairs of these digits, the carry explains"
            f" {self.carry[first].mean():.0%} of the variance that its OV circuit writes. Score:"
            f" {self.scores[first]:.2f} of 1." + (f" The next is {others[0]}." if others else "")
        )


@dataclass(frozen=True, slots=True)
class CarryCircuitSpec(Spec[CarryCircuits]):
    """Which head makes carries, from its QK and OV circuits alone."""

    model: str = field(metadata=MODEL)
    digits: int = field(default=5, metadata=_DIGITS)
    seed: int = field(default=0, metadata=SEED)

    def __post_init__(self) -> None:
        check_count("Operands can't have {} digits.", self.digits, MAX_DIGITS)
        if self.digits < 2:
            raise SpecError("A sum of one-digit numbers has no column below.", "Use 2 or more.")


@dataclass(frozen=True, slots=True)
class ContributionSpec(Spec[ContributionReport]):
    """What writes each digit of a sum: attribution and attention, averaged over many sums."""

    model: str = field(metadata=MODEL)
    digits: int = field(default=3, metadata=_DIGITS)
    sums: int = field(default=200, metadata=_SUMS)
    seed: int = field(default=0, metadata=SEED)

    def __post_init__(self) -> None:
        _check_sums(self.digits, self.sums, MAX_PROMPTS)


@dataclass(frozen=True, slots=True)
class ProbeSpec(Spec[ProbeReport]):
    """Where linear probes decode carries and raw digit sums; 30 % of the sums are held out."""

    model: str = field(metadata=MODEL)
    digits: int = field(default=3, metadata=_DIGITS)
    sums: int = field(default=800, metadata=_SUMS)
    seed: int = field(default=0, metadata=SEED)

    def __post_init__(self) -> None:
        _check_sums(self.digits, self.sums, 2 * MAX_PROMPTS)
        if self.sums < 40:
            raise SpecError(f"{self.sums} sums are too few for a probe.", "Use 200 or more.")


@dataclass(frozen=True, slots=True)
class ProjectionSpec(Spec[Projection]):
    """States of one component at one place, on their two main axes."""

    model: str = field(metadata=MODEL)
    component: str = field(metadata=about('Such as "row 1", "attention 0", "head 0.3" or "mlp 1".'))
    place: str = field(
        default="",
        metadata=about(
            'Such as "a2", "equals" or "answer3"; the state that writes the column unless given.'
        ),
    )
    column: int = field(
        default=1, metadata=about("The column whose digit sum and carry colour the dots.")
    )
    digits: int = field(default=3, metadata=_DIGITS)
    sums: int = field(default=400, metadata=_SUMS)
    seed: int = field(default=0, metadata=SEED)

    def __post_init__(self) -> None:
        _check_sums(self.digits, self.sums, MAX_PROMPTS)
        check_count("There is no column {} to colour by.", self.column, self.digits)


@dataclass(frozen=True, slots=True)
class PatchSpec(Spec[PatchReport]):
    """Which component passes a carry on: patch it from a sum with one into a sum without."""

    model: str = field(metadata=MODEL)
    digits: int = field(default=3, metadata=_DIGITS)
    pairs: int = field(default=32, metadata=about("Pairs of sums for each column."))
    seed: int = field(default=0, metadata=SEED)
    travels: bool = field(
        default=False,
        metadata=about(
            "Whether the carry passes through a column that adds up to 9; if not, it starts in the"
            " column just below."
        ),
    )
    positions: str = field(default="written", metadata=one_of(PATCH_POSITIONS))

    def __post_init__(self) -> None:
        check_choices(self)
        _check_sums(self.digits, self.pairs, 500)
        if self.digits < 2 + self.travels:
            raise SpecError(
                f"A carry can't be passed on in {self.digits}-digit sums.",
                f"Use {2 + self.travels} digits or more.",
            )


def _check_sums(digits: int, sums: int, most: int) -> None:
    check_count("Operands can't have {} digits.", digits, MAX_DIGITS)
    check_count("There can't be {} sums.", sums, most)
