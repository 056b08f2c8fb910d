"""The documents of the repository and their blocks of code."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.support.repository import ROOT

#: Blocks of these libraries are not run: ``python nnsight``. A ``fragment`` needs a context.
NOT_RUN = ("transformer_lens", "nnsight", "bertviz", "tuned_lens", "fragment")
_FENCE = re.compile(r"^( *)```(\S[^\n]*)?\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"[-+−]?\d+(\.\d+)?(e[-+]?\d+)?")


@dataclass(frozen=True)
class Block:
    """A block of code: its language, the words after it, its text and where it begins."""

    language: str
    words: tuple[str, ...]
    text: str
    line: int


def documents() -> list[Path]:
    """Every Markdown file, without hidden folders and what the build makes."""
    found = [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *ROOT.glob("analysis/**/README.md"),
    ]
    return sorted(set(found))


def blocks(path: Path) -> list[Block]:
    """The blocks of a document, in order."""
    text = path.read_text("utf-8")
    found = []
    for match in _FENCE.finditer(text):
        language, *words = (match[2] or "").split() or [""]
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(language, tuple(words), textwrap.dedent(match[3]), line))
    return found


def with_output(path: Path) -> Iterator[tuple[Block, str]]:
    """Each block of Python or shell, with the output that the document gives for it, if any."""
    for block, following in pairwise([*blocks(path), Block("", (), "", 0)]):
        if block.language in ("python", "sh"):
            yield block, following.text if following.language == "text" else ""


def commands(block: Block) -> list[list[str]]:
    """The words of each command of a block of shell, without comments."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def same_output(expected: str, printed: str) -> list[str]:
    """The lines of a document's output that a program did not print.

    Words must be equal. Numbers may differ by 5 % or 0.02, because machines round differently. The
    order of lines is free: rows are sorted by numbers.
    """
    rest = [line.split() for line in printed.splitlines() if line.strip()]
    missing = []
    for line in expected.splitlines():
        found = next((one for one in rest if _same(line.split(), one)), None)
        if found is None and line.strip():
            missing.append(line)
        elif found is not None:
            rest.remove(found)
    return missing


def _same(expected: list[str], printed: list[str]) -> bool:
    return len(expected) == len(printed) and all(map(_same_word, expected, printed))


def _same_word(expected: str, printed: str) -> bool:
    if expected == printed:
        return True
    if not (_NUMBER.fullmatch(expected) and _NUMBER.fullmatch(printed)):
        return False
    one, other = float(expected), float(printed)
    return abs(one - other) <= max(0.02, 0.05 * abs(one))
