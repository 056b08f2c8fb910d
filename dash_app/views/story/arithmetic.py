"""Whether the answer to a prompt such as "5 + 5 =" is right, and what is right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

_TASK = re.compile(r"\s*(\d{1,400})\s*([+\-−*×])\s*(\d{1,400})\s*=\s*")
_NUMBER = re.compile(r"\s*([-−]?(?:\d{1,3}(?:,\d{3})+|\d{1,2000})(?:\.\d{1,9})?)")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the model writes and what is right.

    Attributes:
        task: The calculation in the prompt, for example "5 + 5".
        right: The right number.
        written: The number at the start of the answer; empty if there is none.
        finished: Whether the number ends before the generated text does.
        first_wrong: The answer's character at which the number first differs from the right one;
            None if none does.
    """

    task: str
    right: str
    written: str
    finished: bool
    first_wrong: int | None

    @property
    def is_right(self) -> bool:
        """Whether the number is complete and right; leading zeros do not matter."""
        return self.finished and self.written != "" and _value(self.written) == int(self.right)


def judge(prompt: str, answer: str) -> Verdict | None:
    """Judge the answer to a calculation with two whole numbers; None for any other prompt.

    A number that runs to the end of the generated text counts as finished if it is right or can't
    become right.
    """
    task = _TASK.fullmatch(prompt)
    if task is None:
        return None
    right = str(_result(int(task[1]), task[2], int(task[3])))
    found = _NUMBER.match(answer)
    name = f"{task[1]} {task[2]} {task[3]}"
    if found is None:
        return Verdict(name, right, "", bool(answer.strip()), None)
    written = found[1]
    digits = written[_leading_zeros(written, right) :]
    ended = found.end() < len(answer) or not right.startswith(digits) or digits == right
    wrong = _first_difference(written, right)
    return Verdict(name, right, written, ended, None if wrong is None else found.start(1) + wrong)


def words(verdict: Verdict) -> str:
    """The verdict as a sentence."""
    equation = f"{verdict.task} = {verdict.right}"
    if not verdict.written:
        return f"The answer does not begin with a number; {equation}."
    if verdict.is_right:
        return f"The model's answer is right: {equation}."
    if not verdict.finished:
        return f"The model has written {verdict.written} so far; {equation}."
    return f"The model's answer {verdict.written} is wrong: {equation}."


def token_at(texts: Sequence[str], character: int) -> int | None:
    """The index of the token that contains a character of the joined texts."""
    end = 0
    for index, text in enumerate(texts):
        end += len(text)
        if character < end:
            return index
    return None


def _result(one: int, sign: str, other: int) -> int:
    if sign == "+":
        return one + other
    return one - other if sign in "-−" else one * other


def _value(text: str) -> Decimal:
    return Decimal(text.replace("−", "-").replace(",", ""))


def _first_difference(written: str, right: str) -> int | None:
    """The first digit that differs; one past the end of ``right`` if ``written`` goes on.

    None if the numbers are equal, or have commas or a decimal point.
    """
    if _value(written) == int(right) or not written.lstrip("-−").isdigit():
        return None
    zeros = _leading_zeros(written, right)
    digits = written[zeros:].replace("−", "-")
    pairs = zip(digits, right, strict=False)
    differs = (at + zeros for at, (one, other) in enumerate(pairs) if one != other)
    return next(differs, len(right) + zeros if len(digits) > len(right) else None)


def _leading_zeros(written: str, right: str) -> int:
    """How many zeros the written number begins with that the right one does not have."""
    return len(written) - len(written.lstrip("0")) if right[0] in "123456789" else 0
