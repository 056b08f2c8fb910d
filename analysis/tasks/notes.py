"""The sum that this project set out from, as each model can read it. Importable without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from analysis.errors import AnalysisError
from analysis.models import catalog
from analysis.tasks import addition

A, B = 1230912, 12391989


@dataclass(frozen=True, slots=True)
class Sum:
    """A sum to ask for.

    Attributes:
        prompt: What the model reads.
        new: Tokens that its answer takes, one for each digit and what comes before them.
        answer: What is right.
        why: What a person should know about it.
    """

    prompt: str
    new: int
    answer: str
    why: str


def own_sum(model: str) -> Sum:
    """1230912 + 12391989, or what a model with padded operands of fewer digits can read of it.

    Args:
        model: A name on offer.
    """
    digits = padded_digits(model)
    whole = f"{A} + {B}"
    if digits is None:
        return Sum(f"{whole} =", 10, str(A + B), f"{whole} = {A + B}: eight digits, four carries.")
    a, b = A % 10**digits, B % 10**digits
    return Sum(
        addition.prompt(a, b, digits),
        digits + 2,
        addition.answer(a, b, digits),
        f"This model reads operands of {digits} digits and no more, so {whole} can't be asked."
        f" These are its lowest {digits} columns: the same digits, and the same carries into"
        f" columns 1 to {digits}. Right is {addition.answer(a, b, digits)}.",
    )


def padded_digits(model: str) -> int | None:
    """How many digits a trained adder on offer pads operands to, by its config; else None."""
    try:
        source = Path(catalog.offered(model).source)
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    except (AnalysisError, OSError, ValueError):
        return None
    found = config.get("operand_digits") if isinstance(config, dict) else None
    return found if isinstance(found, int) and 1 <= found <= 15 else None
