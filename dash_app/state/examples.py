"""Example prompts by model; the page opens with the first of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Example:
    """An example prompt.

    Attributes:
        title: Text of the button.
        prompt: The prompt.
        new: Number of tokens to generate.
        shows: What to look for, in one line.
    """

    title: str
    prompt: str
    new: int
    shows: str


DEFAULT = Example(
    "A fact",
    "The capital of France is",
    2,
    "The model recalls a fact: ' Paris' rises in the upper rows.",
)
EXAMPLES = (
    DEFAULT,
    Example(
        "1230912 + 12391989 =",
        "1230912 + 12391989 =",
        10,
        "A long addition, one digit per token. The default model copies a number instead of"
        " adding.",
    ),
    Example("A short sum", "5 + 5 =", 3, "A short addition, which the default model gets right."),
    Example(
        "A repetition",
        "7 2 9 4 7 2 9 4 7 2 9",
        4,
        "A repeated sequence: some heads read the token that followed last time (induction).",
    ),
    Example(
        "A mistake",
        "The capital of Australia is",
        2,
        "The default model answers ' Sydney', and ' Canberra' is close behind. Pin both.",
    ),
)
#: For a model that has tokens for digits only.
_SUMS = (
    Example(
        "A sum",
        "48217+35968=",
        6,
        "A carry moves to the next column, and through a column whose digits sum to 9.",
    ),
    Example("No carry", "12345+54321=", 6, "Each digit of the answer is the sum of its column."),
    Example(
        "A chain of nines",
        "49999+00001=",
        6,
        "One carry moves through every column: the first digit depends on the last.",
    ),
    Example(
        "30912 + 91989",
        "30912+91989=",
        6,
        "The last five digits of 1230912 + 12391989. This model was trained on five digits.",
    ),
)


def examples_for(model: str) -> tuple[Example, ...]:
    """The example prompts for a model of the catalogue."""
    return _SUMS if model == "addition-5digit" else EXAMPLES
