"""Prompts with known answers: sums and differences, facts, induction, indirect objects, numbers.

Each suite is made from a seed: its name, size and seed determine it.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from analysis.errors import PromptError, SpecError
from analysis.tasks import addition


@dataclass(frozen=True, slots=True)
class Part:
    """A named span of the text ``prompt + answer``, in characters.

    Attributes:
        name: "a3" digit of operand a in column 3, "carry2" into column 2, "answer0", "plus", ...
        start, stop: Characters ``start`` to ``stop - 1``.
    """

    name: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class TaskPrompt:
    """A prompt, its right answer, and the meaning of their parts.

    Attributes:
        text: The prompt.
        answer: The right answer, with its leading space.
        foil: A wrong answer of the same kind; empty if the suite has none.
        labels: Facts about the prompt, by name: ("carry2", "1"), ("chain", "3").
        parts: Named spans of ``text + answer``.
    """

    text: str
    answer: str
    foil: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    parts: tuple[Part, ...] = ()

    def label(self, name: str) -> str:
        """The value of a label; empty if the prompt has none of this name."""
        return dict(self.labels).get(name, "")


@dataclass(frozen=True, slots=True)
class Suite:
    """Prompts of one kind.

    Attributes:
        name: The name in commands and URLs.
        title: The title on the page.
        prompts: The prompts, in order.
    """

    name: str
    title: str
    prompts: tuple[TaskPrompt, ...]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt and its right answer as one sequence of tokens.

    Attributes:
        token_ids: [pos] prompt, then answer.
        start: Position of the answer's first token.
        foil_ids: The foil's token at the first answer token where it differs from the answer,
            and -1 at the others; as long as the answer.
        places: Names of parts to the positions of their tokens.
    """

    token_ids: tuple[int, ...]
    start: int
    foil_ids: tuple[int, ...]
    places: dict[str, tuple[int, ...]] = field(default_factory=dict, hash=False, compare=False)


def encode(tokenizer: Any, prompt: TaskPrompt) -> Encoded:
    """Tokenise prompt and answer as one text, and find the tokens of the parts.

    Raises:
        PromptError: If the prompt or the answer has no tokens.
    """
    ids, start, spans = _joined(tokenizer, prompt.text, prompt.answer)
    foil = [-1] * (len(ids) - start)
    if prompt.foil:
        other, begin, _ = _joined(tokenizer, prompt.text, prompt.foil)
        for place, (right, wrong) in enumerate(zip(ids[start:], other[begin:], strict=False)):
            if right != wrong:
                foil[place] = wrong
                break
    places = {part.name: _covering(spans, part) for part in prompt.parts}
    return Encoded(tuple(ids), start, tuple(foil), places)


def _joined(
    tokenizer: Any, text: str, answer: str
) -> tuple[list[int], int, list[tuple[int, int]] | None]:
    """Ids of both, the answer's first position, and each token's characters if known.

    If one token would span prompt and answer, the answer is tokenised on its own, as generation
    would write it.
    """
    if not text or not answer:
        raise PromptError("A task needs a prompt and an answer.", "Fill in both.")
    alone = list(tokenizer(text)["input_ids"])
    ids, spans = _with_spans(tokenizer, text + answer)
    if ids[: len(alone)] != alone or len(ids) <= len(alone):
        ids = alone + list(tokenizer(answer, add_special_tokens=False)["input_ids"])
        spans = None
    if not alone or len(ids) <= len(alone):
        raise PromptError(f"{text!r} or {answer!r} has no tokens.", "Write a longer text.")
    return ids, len(alone), spans


def _with_spans(tokenizer: Any, text: str) -> tuple[list[int], list[tuple[int, int]] | None]:
    if not getattr(tokenizer, "is_fast", False):
        return list(tokenizer(text)["input_ids"]), None
    found = tokenizer(text, return_offsets_mapping=True)
    return list(found["input_ids"]), list(found["offset_mapping"])


def _covering(spans: list[tuple[int, int]] | None, part: Part) -> tuple[int, ...]:
    if spans is None:
        return ()
    return tuple(
        place
        for place, (start, stop) in enumerate(spans)
        if start < part.stop and stop > part.start
    )


_CAPITAL = "The capital of {} is"
_LANGUAGE = "The main language spoken in {} is"
_OPPOSITE = "The opposite of {} is"

_CAPITALS = """France Paris;Germany Berlin;Italy Rome;Spain Madrid;Portugal Lisbon;Greece Athens;
Austria Vienna;Poland Warsaw;Russia Moscow;Japan Tokyo;China Beijing;Egypt Cairo;Norway Oslo;
Sweden Stockholm;Denmark Copenhagen;Ireland Dublin;Hungary Budapest;Cuba Havana;Canada Ottawa;
Turkey Ankara;Iraq Baghdad;Iran Tehran;Kenya Nairobi;Peru Lima;Belgium Brussels;England London"""
_LANGUAGES = """France French;Germany German;Italy Italian;Spain Spanish;Portugal Portuguese;
Brazil Portuguese;Mexico Spanish;Japan Japanese;China Chinese;Russia Russian;Poland Polish;
Greece Greek;Turkey Turkish;Egypt Arabic;England English;Sweden Swedish;Denmark Danish"""
_OPPOSITES = """hot cold;big small;up down;left right;black white;day night;good bad;old young;
open closed;high low;fast slow;true false;love hate;light dark;north south;east west;rich poor"""

_NAMES = "Mary John Tom Anna James Paul Peter Sarah"
_PLACES, _THINGS = "shop school park garden", "book drink ball letter"


def _facts_of(relation: str, pairs: str) -> list[tuple[str, str, str]]:
    split = (pair.split() for pair in pairs.replace("\n", "").split(";"))
    return [(relation, subject, answer) for subject, answer in split]


FACTS = tuple(
    _facts_of(_CAPITAL, _CAPITALS)
    + _facts_of(_LANGUAGE, _LANGUAGES)
    + _facts_of(_OPPOSITE, _OPPOSITES)
)

#: Kinds of sums: any; without a carry; with nines that pass a carry on; a carry through all nines.
KINDS = ("any", "plain", "chains", "cascade")

#: Few-shot examples before a sum, for language models.
EXAMPLES = {
    "+": "5 + 3 = 8\n17 + 25 = 42\n6 + 9 = 15\n",
    "-": "8 - 5 = 3\n42 - 17 = 25\n15 - 9 = 6\n",
}


def written(a: int, b: int, sign: str, result: int, digits: int, padded: bool) -> TaskPrompt:
    """One sum or difference, with its parts named by column.

    Args:
        a: The first operand.
        b: The second operand.
        sign: "+" or "-".
        result: The right result.
        digits: Of each operand, if padded.
        padded: As the trained adder reads it (``addition.prompt``); else in the usual notation,
            after ``EXAMPLES``.
    """
    if padded:
        examples, formula = "", addition.prompt(a, b, digits)
        answer = addition.answer(a, b, digits)
    else:
        examples, formula, answer = EXAMPLES[sign], f"{a} {sign} {b} = ", str(result)
    base, text = len(examples), examples + formula
    place, equals = base + formula.index(sign), base + formula.index("=")
    first, second = (number.strip() for number in formula[: formula.index("=")].split(sign))
    at = {"a": base, "b": text.index(second, place), "answer": len(text)}
    parts = [Part("plus" if sign == "+" else "minus", place, place + 1)]
    parts.append(Part("equals", equals, equals + 1))
    for name, number in (("a", first), ("b", second), ("answer", answer)):
        parts += _digits(name, number, at[name])
    return TaskPrompt(text, answer, parts=tuple(parts))


def _digits(name: str, number: str, start: int) -> list[Part]:
    """The digits of a number as parts named by column, 0 for the units."""
    count = len(number)
    return [
        Part(f"{name}{count - 1 - place}", start + place, start + place + 1)
        for place in range(count)
        if number[place].isdigit()
    ]


def sum_prompt(a: int, b: int, digits: int, *, padded: bool = False) -> TaskPrompt:
    """A sum with its carries as labels; the foil is the sum without its lowest carry."""
    prompt = written(a, b, "+", a + b, digits, padded)
    first, second = np.array([a]), np.array([b])
    carry = addition.carries(first, second, digits)[0]
    sums = addition.digit_sums(first, second, digits)[0]
    labels = [(f"carry{column}", str(carry[column])) for column in range(1, digits + 1)]
    labels += [(f"sum{column}", str(sums[column])) for column in range(digits)]
    labels.append(("chain", str(addition.longest_chain(first, second, digits)[0])))
    labels.append(("digits", str(digits)))
    foil = _without_carry(a + b, carry, prompt.answer)
    return replace(prompt, foil=foil, labels=tuple(labels))


def _without_carry(total: int, carry: np.ndarray, answer: str) -> str:
    """The answer without the lowest carry; of a sum without carries, with one into the tens."""
    entered = np.flatnonzero(carry)
    column = int(entered[0]) if len(entered) else 1
    wrong = total - 10**column if len(entered) else total + 10**column
    return f"{wrong:0{len(answer)}d}"


def _sums(size: int, seed: int, digits: int, kind: str, padded: bool) -> list[TaskPrompt]:
    rng = np.random.default_rng([seed, digits, KINDS.index(kind)])
    prompts: list[TaskPrompt] = []
    while len(prompts) < size:
        a, b = _operands(rng, digits, kind)
        if padded or (a >= 10 ** (digits - 1) and b >= 10 ** (digits - 1)):
            prompts.append(sum_prompt(a, b, digits, padded=padded))
    return prompts


def _lengths(size: int, seed: int, digits: int, padded: bool) -> list[TaskPrompt]:
    """Sums of 1 digit, 2 digits, ... in turn, to find the length at which a model fails."""
    each = -(-size // digits)
    groups = [_sums(each, seed, count, "any", padded) for count in range(1, digits + 1)]
    return [prompt for row in zip(*groups, strict=True) for prompt in row][:size]


def _operands(rng: np.random.Generator, digits: int, kind: str) -> tuple[int, int]:
    first = rng.integers(0, 10, digits)
    second = rng.integers(0, 10, digits)
    if kind == "plain":
        second = rng.integers(0, 10 - first)
    elif kind == "chains":
        second = np.where(rng.random(digits) < 0.5, 9 - first, second)
    elif kind == "cascade":  # a carry from the units passes through nines to the top
        second = 9 - first
        first[0] = rng.integers(1, 10)
        second[0] = rng.integers(10 - first[0], 10)
    powers = 10 ** np.arange(digits)
    return int(first @ powers), int(second @ powers)


def _differences(size: int, seed: int, digits: int) -> list[TaskPrompt]:
    rng = np.random.default_rng([seed, digits, 77])
    prompts = []
    for _ in range(size):
        low, high = sorted(rng.integers(10 ** (digits - 1), 10**digits, 2).tolist())
        borrows = sum(
            low % 10 ** (column + 1) > high % 10 ** (column + 1) for column in range(digits)
        )
        prompt = written(high, low, "-", high - low, digits, padded=False)
        labels = (("borrows", str(borrows)), ("digits", str(digits)))
        prompts.append(replace(prompt, foil=str(high - low + 10), labels=labels))
    return prompts


def _facts(size: int, seed: int) -> list[TaskPrompt]:
    order = np.random.default_rng(seed).permutation(len(FACTS))[:size]
    prompts = []
    for place in order:
        relation, subject, answer = FACTS[place]
        same = [fact for fact in FACTS if fact[0] == relation and fact[2] != answer]
        foil = same[int(place) % len(same)][2]
        text = relation.format(subject)
        part = Part("subject", text.index(subject), text.index(subject) + len(subject))
        labels = (("relation", relation.format("...")),)
        prompts.append(TaskPrompt(text, f" {answer}", f" {foil}", labels, (part,)))
    return prompts


def _induction(size: int, seed: int) -> list[TaskPrompt]:
    """Random letters, then the same again. The answer followed this letter the first time."""
    rng = np.random.default_rng([seed, 5])
    prompts = []
    for _ in range(size):
        letters = rng.permutation(list(string.ascii_uppercase))[:8].tolist()
        repeated = int(rng.integers(2, 7))
        text = " " + " ".join(letters + letters[:repeated])
        first = Part("before", 2 * repeated, 2 * repeated + 2)
        other = letters[(repeated + 3) % 8]
        labels = (("gap", str(len(letters))), ("shown", str(repeated)))
        prompts.append(TaskPrompt(text, f" {letters[repeated]}", f" {other}", labels, (first,)))
    return prompts


def _indirect_objects(size: int, seed: int) -> list[TaskPrompt]:
    """Two names, one of them again; the answer is the other one (Wang et al. 2022)."""
    rng = np.random.default_rng([seed, 13])
    prompts = []
    for _ in range(size):
        other, subject = rng.choice(_NAMES.split(), 2, replace=False).tolist()
        first = bool(rng.integers(2))
        pair = (other, subject) if first else (subject, other)
        place, thing = rng.choice(_PLACES.split()), rng.choice(_THINGS.split())
        start = f"When {pair[0]} and {pair[1]} went to the {place}, "
        text = f"{start}{subject} gave a {thing} to"
        at = [("name", text.index(other), other), ("subject", text.index(subject), subject),
              ("subject again", len(start), subject)]  # fmt: skip
        parts = tuple(Part(name, begin, begin + len(word)) for name, begin, word in at)
        labels = (("name first", str(int(first))),)
        prompts.append(TaskPrompt(text, f" {other}", f" {subject}", labels, parts))
    return prompts


def _greater_than(size: int, seed: int) -> list[TaskPrompt]:
    """The greater of two numbers, after Hanna et al. 2023; in words, so that it is one token."""
    words = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    rng = np.random.default_rng([seed, 9])
    prompts = []
    for _ in range(size):
        low, high = sorted(rng.choice(10, 2, replace=False).tolist())
        flipped = bool(rng.integers(2))
        pair = (words[high], words[low]) if flipped else (words[low], words[high])
        text = f"Of the numbers {pair[0]} and {pair[1]}, the greater one is"
        labels = (("gap", str(high - low)), ("greater first", str(int(flipped))))
        prompts.append(TaskPrompt(text, f" {words[high]}", f" {words[low]}", labels))
    return prompts


_BUILDERS: dict[str, tuple[str, Callable[[int, int, int, bool], list[TaskPrompt]]]] = {
    "addition": ("Sums", lambda n, s, d, p: _sums(n, s, d, "any", p)),
    "addition-plain": ("Sums without a carry", lambda n, s, d, p: _sums(n, s, d, "plain", p)),
    "addition-chains": ("Sums with carry chains", lambda n, s, d, p: _sums(n, s, d, "chains", p)),
    "addition-cascade": (
        "Cascades of nines",
        lambda n, s, d, p: _sums(n, s, d, "cascade", p),
    ),
    "addition-lengths": (
        "Sums of ever longer operands",
        _lengths,
    ),
    "subtraction": ("Differences", lambda n, s, d, p: _differences(n, s, d)),
    "facts": ("Facts", lambda n, s, d, p: _facts(n, s)),
    "induction": ("Induction", lambda n, s, d, p: _induction(n, s)),
    "indirect-objects": ("Indirect objects", lambda n, s, d, p: _indirect_objects(n, s)),
    "greater-than": ("The greater of two", lambda n, s, d, p: _greater_than(n, s)),
}
NAMES = tuple(_BUILDERS)


def title(name: str) -> str:
    """A suite's title."""
    return _BUILDERS[name][0]


def build(name: str, size: int, seed: int = 0, digits: int = 5, *, padded: bool = False) -> Suite:
    """Make a suite.

    Args:
        name: One of ``NAMES``.
        size: Number of prompts; ``facts`` has no more than ``len(FACTS)``.
        seed: The seed of the random choices.
        digits: Of each operand, 1 to 15; for ``addition-lengths``, of the longest.
        padded: Whether sums are written as the trained adder reads them.

    Raises:
        SpecError: If there is no such suite, or size or digits are out of range.
    """
    if name not in _BUILDERS:
        raise SpecError(f"There is no suite {name!r}.", f"Choose one of: {', '.join(NAMES)}.")
    if size < 1 or not 1 <= digits <= 15:
        raise SpecError(
            "A suite needs at least 1 prompt, and operands of 1 to 15 digits.",
            "Change size or digits.",
        )
    _, builder = _BUILDERS[name]
    return Suite(name, title(name), tuple(builder(size, seed, digits, padded)))
