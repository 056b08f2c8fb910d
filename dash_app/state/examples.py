"""Prompts to click, by model; the first of all is what the page opens with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt that shows something.

    Attributes:
        title: What the button says.
        prompt: The text.
        new: How many tokens to generate.
        shows: One line: what to look for.
    """

    title: str
    prompt: str
    new: int
    shows: str


DEFAULT = Example(
    "A fact",
    "The capital of France is",
    2,
    "A fact recalled: watch ' Paris' rise in the upper rows.",
)
EXAMPLES = (
    DEFAULT,
    Example(
        "1230912 + 12391989 =",
        "1230912 + 12391989 =",
        10,
        "A long addition, one digit a token. The default model copies a number instead of adding.",
    ),
    Example("A short sum", "5 + 5 =", 3, "A short addition, which the default model gets right."),
    Example(
        "A repetition",
        "7 2 9 4 7 2 9 4 7 2 9",
        4,
        "A repeated sequence: heads look for what followed the last time (induction).",
    ),
    Example(
        "A mistake",
        "The capital of Australia is",
        2,
        "The default model says ' Sydney', with ' Canberra' close behind: pin both.",
    ),
)
#: A model of digits alone has no token for a letter: any other prompt is nothing to it.
_SUMS = (
    Example("A sum", "48217+35968=", 6, "Carries next door, and through a column that sums to 9."),
    Example("No carry", "12345+54321=", 6, "Each digit of the answer is the sum of its column."),
    Example(
        "A chain of nines",
        "49999+00001=",
        6,
        "One carry goes through every column: the first digit depends on the last.",
    ),
    Example(
        "30912 + 91989",
        "30912+91989=",
        6,
        "The last five digits of 1230912 + 12391989: this model was trained on five.",
    ),
)


def examples_for(model: str) -> tuple[Example, ...]:
    """The prompts to offer for a model by its name in the catalogue."""
    return _SUMS if model == "addition-5digit" else EXAMPLES
