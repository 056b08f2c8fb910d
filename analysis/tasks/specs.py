"""What is asked of a suite and of the reports on sums, importable without torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from analysis.contract.choices import Choice, Choices, check_choices, one_of
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


@dataclass(frozen=True, slots=True)
class SuiteSpec(Spec[SuiteReport]):
    """A suite drawn by its name, size and seed, or a list of one's own, run on one model.

    Attributes:
        model: As in ``RunSpec``.
        suite: One of ``suites.NAMES``, or "own".
        size: Prompts; of a list of one's own at most so many, the first ones.
        seed: Of the drawing.
        digits: Of each operand; the trained adder's own count goes ahead.
        content: A list of one's own as JSON lines (``files.as_lines``); empty for the others.
        title: What the list is called.
    """

    model: str
    suite: str
    size: int = 100
    seed: int = 0
    digits: int = 3
    measure: str = field(default="saturation", metadata=one_of(MEASURES))
    content: str = ""
    title: str = ""

    def __post_init__(self) -> None:
        check_choices(self)
        _check("A suite can't have {} prompts.", self.size, MOST_PROMPTS)
        if (self.suite == OWN) != bool(self.content):
            raise SpecError("A list of one's own needs prompts.", "Upload a CSV or JSONL file.")


@dataclass(frozen=True, slots=True)
class ContributionSpec(Spec[ContributionReport]):
    """What writes each digit of a sum: attribution and attention, averaged over ``sums``."""

    model: str
    digits: int = 3
    sums: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        _check_sums(self.digits, self.sums, MOST_PROMPTS)


@dataclass(frozen=True, slots=True)
class ProbeSpec(Spec[ProbeReport]):
    """Where carries and raw digit sums can be read off a state; 30 % of ``sums`` held out."""

    model: str
    digits: int = 3
    sums: int = 800
    seed: int = 0

    def __post_init__(self) -> None:
        _check_sums(self.digits, self.sums, 2 * MOST_PROMPTS)
        if self.sums < 40:
            raise SpecError(f"{self.sums} sums are too few to fit on and judge by.", "Use 200.")


@dataclass(frozen=True, slots=True)
class ProjectionSpec(Spec[Projection]):
    """States of one component at one place on their two main axes.

    Attributes:
        component: By name: "row 1", "attention 0", "head 0.3", "mlp 1".
        place: By name: "a2", "equals", "answer3"; empty: the state that writes ``column``.
        column: Whose digit sum, and the carry into which, colour the dots.
    """

    model: str
    component: str
    place: str = ""
    column: int = 1
    digits: int = 3
    sums: int = 400
    seed: int = 0

    def __post_init__(self) -> None:
        _check_sums(self.digits, self.sums, MOST_PROMPTS)
        _check("There is no column {} to colour by.", self.column, self.digits)


@dataclass(frozen=True, slots=True)
class PatchSpec(Spec[PatchReport]):
    """Which component hands a carry over: patch it from a sum with one into a sum without.

    Attributes:
        pairs: Pairs of sums a column.
        travels: Whether the carry comes through a nine; else it is made next door.
    """

    model: str
    digits: int = 3
    pairs: int = 32
    seed: int = 0
    travels: bool = False
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
    """Wrong answers of a suite beside the likest right ones.

    Attributes:
        suite: Whose answers; its model is the one that is asked.
        most: Pairs, the likest first.
    """

    suite: SuiteSpec
    most: int = 3

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
