"""What is asked of a suite and of the reports on sums, importable without torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from analysis.contract.choices import Choice, Choices, about, check_choices, one_of
from analysis.contract.specs import Spec
from analysis.errors import SpecError
from analysis.tasks.results import FailureReport, SuiteReport
from analysis.tasks.sum_results import ContributionReport, PatchReport, ProbeReport, Projection

MEASURES = Choices(
    "measure",
    Choice("saturation", "Saturation", help="First row from which the token ranks first to the"
           " end.", source="Geva et al., 2022"),
    Choice("first_top1", "First", help="First row where the token ranks first."),
    help="Which row counts as the one where the answer emerges.",
)  # fmt: skip
PATCH_POSITIONS = Choices(
    "choice of positions",
    Choice(
        "written", "Written",
        help="At the state that writes the digit, and at all states together.",
    ),
    Choice("all", "All", help="At each state on its own as well."),
    help="Where the patched component is replaced.",
)  # fmt: skip
#: A person's job must leave the queue in minutes.
MOST_PROMPTS = 2000
#: A suite of a person's own has this name, and its prompts in ``content``.
OWN = "own"
MOST_DIGITS = 15


_MODEL = about("A catalogue name.")
_SEED = about("The seed of the draw.")
_DIGITS = about("Digits of each operand.")
_SUMS = about("How many sums.")


@dataclass(frozen=True, slots=True)
class SuiteSpec(Spec[SuiteReport]):
    """A suite of prompts, built in or uploaded, run on one model."""

    model: str = field(metadata=_MODEL)
    suite: str = field(metadata=about('A built-in suite\'s name, or "own" for an uploaded list.'))
    size: int = field(
        default=100, metadata=about("How many prompts; of an uploaded list, the first ones.")
    )
    seed: int = field(default=0, metadata=_SEED)
    digits: int = field(
        default=3,
        metadata=about("Digits of each operand; a model trained on sums keeps its own number."),
    )
    measure: str = field(default="saturation", metadata=one_of(MEASURES))
    content: str = field(default="", metadata=about("An uploaded list as JSON lines; else empty."))
    title: str = field(default="", metadata=about("The title of an uploaded list."))

    def __post_init__(self) -> None:
        check_choices(self)
        _check("A suite can't have {} prompts.", self.size, MOST_PROMPTS)
        if (self.suite == OWN) != bool(self.content):
            raise SpecError("A list of one's own needs prompts.", "Upload a CSV or JSONL file.")


@dataclass(frozen=True, slots=True)
class ContributionSpec(Spec[ContributionReport]):
    """What writes each digit of a sum: attribution and attention, averaged over many sums."""

    model: str = field(metadata=_MODEL)
    digits: int = field(default=3, metadata=_DIGITS)
    sums: int = field(default=200, metadata=_SUMS)
    seed: int = field(default=0, metadata=_SEED)

    def __post_init__(self) -> None:
        _check_sums(self.digits, self.sums, MOST_PROMPTS)


@dataclass(frozen=True, slots=True)
class ProbeSpec(Spec[ProbeReport]):
    """Where carries and raw digit sums can be read off a state; 30 % of the sums are held out."""

    model: str = field(metadata=_MODEL)
    digits: int = field(default=3, metadata=_DIGITS)
    sums: int = field(default=800, metadata=_SUMS)
    seed: int = field(default=0, metadata=_SEED)

    def __post_init__(self) -> None:
        _check_sums(self.digits, self.sums, 2 * MOST_PROMPTS)
        if self.sums < 40:
            raise SpecError(f"{self.sums} sums are too few to fit on and judge by.", "Use 200.")


@dataclass(frozen=True, slots=True)
class ProjectionSpec(Spec[Projection]):
    """States of one component at one place, on their two main axes."""

    model: str = field(metadata=_MODEL)
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
    seed: int = field(default=0, metadata=_SEED)

    def __post_init__(self) -> None:
        _check_sums(self.digits, self.sums, MOST_PROMPTS)
        _check("There is no column {} to colour by.", self.column, self.digits)


@dataclass(frozen=True, slots=True)
class PatchSpec(Spec[PatchReport]):
    """Which component passes a carry on: patch it from a sum with one into a sum without."""

    model: str = field(metadata=_MODEL)
    digits: int = field(default=3, metadata=_DIGITS)
    pairs: int = field(default=32, metadata=about("Pairs of sums for each column."))
    seed: int = field(default=0, metadata=_SEED)
    travels: bool = field(
        default=False,
        metadata=about("The carry comes through a nine; else from the next column."),
    )
    positions: str = field(default="written", metadata=one_of(PATCH_POSITIONS))

    def __post_init__(self) -> None:
        check_choices(self)
        _check_sums(self.digits, self.pairs, 500)
        if self.digits < 2 + self.travels:
            raise SpecError(
                f"A carry can't be handed on in {self.digits}-digit sums.",
                f"Use {2 + self.travels} digits or more.",
            )


@dataclass(frozen=True, slots=True)
class FailureSpec(Spec[FailureReport]):
    """Wrong answers of a suite beside the most similar right ones."""

    suite: SuiteSpec = field(metadata=about("The suite."))
    most: int = field(default=3, metadata=about("At most this many pairs, the most similar first."))

    def __post_init__(self) -> None:
        _check("There can't be {} pairs.", self.most, 20)

    @property
    def model(self) -> str:
        """The suite's."""
        return self.suite.model


StudySpec = SuiteSpec | ContributionSpec | ProbeSpec | ProjectionSpec | PatchSpec | FailureSpec


def _check_sums(digits: int, sums: int, most: int) -> None:
    _check("Operands can't have {} digits.", digits, MOST_DIGITS)
    _check("There can't be {} sums.", sums, most)


def _check(message: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise SpecError(message.format(value), f"Use 1 to {most}.")
