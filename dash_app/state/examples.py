"""Example prompts by model and by question; the page opens with the first of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from dash_app.state.selection import Selection

KNOW, READ, CARRY, FAIL = QUESTIONS = (
    "When does it know?",
    "Where does it read?",
    "How are carries made?",
    "Where does it fail?",
)
#: The model of the catalogue that was trained to add numbers of five digits.
ADDING = "addition-5digit"
#: The models of the catalogue whose circuits are built by hand.
INDUCTION, COPY = "induction-by-hand", "copy-by-hand"


@dataclass(frozen=True, slots=True)
class Example:
    """An example prompt.

    Attributes:
        question: What it helps to answer, one of ``QUESTIONS``.
        title: Text of the button.
        prompt: The prompt.
        new: Number of tokens to generate.
        shows: What to look for, in one line.
        model: The model that it needs; empty: the current one.
    """

    question: str
    title: str
    prompt: str
    new: int
    shows: str
    model: str = ""


DEFAULT = Example(
    KNOW,
    "A fact",
    "The capital of France is",
    2,
    "The model recalls a fact: ' Paris' rises in the upper rows.",
)
#: For a model that has tokens for digits only.
_SUMS = (
    Example(
        CARRY,
        "A sum",
        "48217+35968=",
        6,
        "A carry moves to the next column, and through a column whose digits sum to 9.",
    ),
    Example(
        CARRY, "No carry", "12345+54321=", 6, "Each digit of the answer is the sum of its column."
    ),
    Example(
        CARRY,
        "A chain of nines",
        "49999+00001=",
        6,
        "One carry moves through every column: the first digit depends on the last.",
    ),
    Example(
        READ,
        "30912 + 91989",
        "30912+91989=",
        6,
        "The last five digits of 1230912 + 12391989. This model was trained on five digits.",
    ),
)
_REPEATED = Example(
    READ,
    "A repeated letter",
    "cadbea",
    4,
    "Head 0.1 tells each letter which one came before it. From the second 'a', head 1.0 finds the"
    " letter that came after the first, and copies it (induction).",
)
_STARRED = Example(
    READ,
    "The letter before the star",
    "ca*db=",
    1,
    "Head 0.0 writes 'a' at the star. From '=', head 1.1 reads the star, and copies what head 0.0"
    " wrote there.",
)
#: For the models whose circuits are built by hand.
_BUILT = {
    INDUCTION: (
        _REPEATED,
        Example(
            READ, "Two letters with one before", "abcadea", 1,
            "'b' and 'd' both came after an 'a'. Head 1.0 reads both, and each gets half.",
        ),
        Example(
            FAIL, "No letter is repeated", "abcdef", 1,
            "Head 1.0 finds no match and rests on the start token. The unknown token leads.",
        ),
    ),
    COPY: (
        _STARRED,
        Example(
            FAIL, "Two stars", "a*b*=", 1,
            "Head 1.1 reads both stars, so 'a' and 'b' each get half.",
        ),
    ),
}  # fmt: skip
EXAMPLES = (
    DEFAULT,
    Example(
        KNOW,
        "A pattern",
        "Berlin is in Germany. Paris is in France. Rome is in",
        2,
        "Two examples come first. Compare where ' Italy' rises with ' Paris' in the fact.",
    ),
    Example(
        READ,
        "Two names",
        "When Mary and John went to the shop, John gave a drink to",
        2,
        "The answer is the name that is not repeated (Wang et al. 2022, indirect object). See which"
        " heads read it.",
    ),
    Example(
        READ,
        "A repetition",
        "7 2 9 4 7 2 9 4 7 2 9",
        4,
        "A repeated sequence: some heads read the token that followed last time (induction).",
    ),
    *(
        replace(one, title=f"{one.title}, on a model that adds", model=ADDING)
        for one in (_SUMS[0], _SUMS[2])
    ),
    replace(_REPEATED, title="Induction, on a model built by hand", model=INDUCTION),
    replace(_STARRED, title="A copy, on a model built by hand", model=COPY),
    Example(
        CARRY, "A short sum", "5 + 5 =", 3, "A short addition, which the default model gets right."
    ),
    Example(
        FAIL,
        "A mistake",
        "The capital of Australia is",
        2,
        "The default model answers ' Sydney', and ' Canberra' is close behind. Pin both.",
    ),
    Example(
        FAIL,
        "A wrong sum",
        "17 + 25 =",
        4,
        "The default model writes 37 instead of 42. The sentence names the first wrong digit.",
    ),
    Example(
        FAIL,
        "1230912 + 12391989 =",
        "1230912 + 12391989 =",
        10,
        "A long addition, one digit per token. The default model copies a number instead of"
        " adding.",
    ),
)


def examples_for(model: str) -> tuple[Example, ...]:
    """The example prompts for a model of the catalogue."""
    return _SUMS if model == ADDING else _BUILT.get(model, EXAMPLES)


def by_question(model: str) -> dict[str, tuple[Example, ...]]:
    """The example prompts for a model under each question, in the order of the questions.

    Questions without an example are left out.
    """
    found = {
        question: tuple(one for one in examples_for(model) if one.question == question)
        for question in QUESTIONS
    }
    return {question: examples for question, examples in found.items() if examples}


@lru_cache(maxsize=256)
def defaults_for(model: str, base: Selection) -> Selection:
    """The defaults of a link to ``model``: a model with examples of its own opens on the first."""
    first, *_ = examples = examples_for(model)
    if examples == examples_for(base.model) and base.prompt:
        return base
    return base.model_copy(update={"prompt": first.prompt, "new": first.new})
