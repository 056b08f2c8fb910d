"""What a lens is trained and judged on: a file's text, Python's own manual, or sums."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.errors import SpecError
from analysis.learned.openings import Part
from analysis.models.handle import Model
from analysis.tasks import addition, digits

#: Tokens of a window of a file, and new tokens of a generated text.
CONTEXT = 128
#: Each tenth window of a file is held out.
_TENTH = 10


@dataclass(frozen=True, slots=True)
class Text:
    """Token sequences, each read from its own start.

    Attributes:
        title: What it is, for a person.
        parts: Sequences of token ids.
        starts: In each, the first position that a lens is judged at (the opening is given).
    """

    title: str
    parts: tuple[tuple[int, ...], ...]
    starts: tuple[int, ...]

    @property
    def size(self) -> int:
        """Tokens in all."""
        return sum(len(part) for part in self.parts)

    def first(self, tokens: int) -> Text:
        """The first parts, until they hold so many judged tokens."""
        kept, held = 0, 0
        while kept < len(self.parts) and held < tokens:
            held += len(self.parts[kept]) - self.starts[kept]
            kept += 1
        return Text(self.title, self.parts[:kept], self.starts[:kept])


def from_file(model: Model, path: Path, part: Part) -> Text:
    """A part of a text file: each tenth window of 128 tokens is held out, the others train.

    Raises:
        SpecError: If the file can't be read as UTF-8, or is too short.
    """
    try:
        words = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(
            f"{path} can't be read as UTF-8 text.", "Name a plain text file."
        ) from error
    windows = _windows(model, words)
    if len(windows) < 2 * _TENTH:
        raise SpecError(
            f"{path} has {sum(map(len, windows))} tokens; a lens needs {2 * _TENTH * CONTEXT}.",
            "Name a longer text, or leave --text out: then the model writes its own.",
        )
    held = [(number % _TENTH == 0) == (part == "held_out") for number in range(len(windows))]
    parts = tuple(window for window, wanted in zip(windows, held, strict=True) if wanted)
    title = {"train": f"{path.name}", "held_out": f"{path.name}, each tenth window"}[part]
    return Text(title, parts, (0,) * len(parts))


def manual(model: Model, tokens: int, seed: int) -> Text:
    """Human words that every Python brings: its reference manual, topics in random order."""
    from pydoc_data.topics import topics

    names = sorted(topics)
    parts: list[tuple[int, ...]] = []
    for place in np.random.default_rng([seed, 3]).permutation(len(names)):
        parts += _windows(model, topics[names[place]])
        if sum(map(len, parts)) >= tokens:
            break
    return Text("Python's reference manual", tuple(parts), (0,) * len(parts))


def _windows(model: Model, words: str) -> list[tuple[int, ...]]:
    ids = model.tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"]
    limit = min(CONTEXT, model.info.max_positions or CONTEXT)
    found = [tuple(ids[start : start + limit]) for start in range(0, len(ids), limit)]
    return [window for window in found if len(window) == limit]


def sums(operand_digits: int, tokens: int, seed: int, part: Part) -> Text:
    """Sums with their answers, for a model that adds; those held out are of its test part."""
    length = digits.length_of(operand_digits)
    rng = np.random.default_rng([seed, part == "held_out"])
    split: addition.Part = "test" if part == "held_out" else "train"
    a, b = addition.draw(rng, -(-tokens // length), split, operand_digits)
    parts = tuple(tuple(row) for row in digits.sequences(a, b, operand_digits).tolist())
    title = f"sums of {operand_digits} digits" + (" it never saw" if part == "held_out" else "")
    return Text(title, parts, (0,) * len(parts))
