"""Prompts with known answers, and the tokens of their named parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from analysis.errors import PromptError


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
