"""Prompts to click; the first is what the page opens with."""

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
        "A long addition, one digit a token: where do the digits come from?",
    ),
    Example("A short sum", "2 + 3 =", 3, "A short addition."),
    Example(
        "Repetition",
        "apple river stone cloud apple river stone",
        2,
        "A repeated sequence: heads that look for what followed last time (induction).",
    ),
    Example("A mistake", "The capital of Australia is", 2, "The model may be wrong here."),
)
