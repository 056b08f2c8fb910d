"""A suite of the user's own: CSV with a header, or JSON lines.

Columns or keys: ``prompt`` and ``answer``, optionally ``foil``; all others are labels. An
answer is taken to the letter: a word after a space is written with its space.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from analysis.errors import SpecError
from analysis.tasks.prompts import Suite, TaskPrompt

MOST_ROWS, MOST_BYTES, MOST_TEXT = 100_000, 64 << 20, 20_000
#: Labels of one prompt: more are another kind of file, and each is looked for in every prompt.
MOST_LABELS = 100
_SHOWN, _MOST_PROBLEMS = 20, 1000


def read(path: Path) -> Suite:
    """Read a suite from a ``.csv`` or ``.jsonl`` file.

    Raises:
        SpecError: If it can't be read, or with every bad line's number and reason (the first 20).
    """
    kind = path.suffix.lower()
    if kind not in (".csv", ".jsonl"):
        raise SpecError(f"{path.name} is neither .csv nor .jsonl.", "Save it as one of them.")
    try:
        if path.stat().st_size > MOST_BYTES:
            raise SpecError(f"{path.name} is over {MOST_BYTES >> 20} MiB.", "Split it.")
        data = path.read_bytes()
    except OSError as error:
        raise SpecError(f"{path} can't be read: {error.strerror}.", "Check its name.") from error
    return parse(data, kind.removeprefix("."), path.stem)


def as_lines(suite: Suite) -> str:
    """A suite as JSON lines, which ``parse`` reads back: prompts, answers, foils and labels."""
    return "\n".join(
        json.dumps({"prompt": p.text, "answer": p.answer, "foil": p.foil, "labels": dict(p.labels)})
        for p in suite.prompts
    )


def parse(data: bytes, kind: str, name: str = "own", most: int = MOST_ROWS) -> Suite:
    """Read a suite from bytes of a file of ``kind`` "csv" or "jsonl" in UTF-8.

    Args:
        data: The file's content.
        kind: "csv" or "jsonl".
        name: What the suite is called.
        most: Prompts that are taken.

    Raises:
        SpecError: With every bad line's number and reason (the first 20).
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise SpecError(f"Line {line}: not UTF-8.", "Save the file as UTF-8.") from error
    rows = _csv(text) if kind == "csv" else _jsonl(text)
    prompts: list[TaskPrompt] = []
    problems: list[str] = []
    for line, row in rows:
        found = row if isinstance(row, str) else _prompt(row)
        if isinstance(found, str):
            problems.append(f"Line {line}: {found}.")
        else:
            prompts.append(found)
        if len(prompts) > most:
            problems.append(f"Line {line}: more than {most} prompts.")
        if len(prompts) > most or len(problems) > _MOST_PROBLEMS:
            break
    if problems:
        raise SpecError(_listed(problems), "Mend these lines; nothing was run.")
    if not prompts:
        raise SpecError("The file holds no prompts.", "Give each a line with prompt and answer.")
    return Suite(name, name, tuple(prompts))


def _listed(problems: list[str]) -> str:
    """The first of them, and how many more there are, or at least are."""
    more = len(problems) - _SHOWN
    least = "at least " if len(problems) > _MOST_PROBLEMS else ""
    return " ".join(problems[:_SHOWN]) + (f" And {least}{more} more lines." if more > 0 else "")


def _csv(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        names = [name.strip() for name in next(reader, [])]
        trouble = _header(names)
        if trouble:
            yield line, trouble
            return
        line = reader.line_num + 1
        for fields in reader:
            if len(fields) == len(names):
                yield line, dict(zip(names, fields, strict=True))
            elif fields:
                yield line, f"{len(fields)} fields where the header has {len(names)}"
            line = reader.line_num + 1
    except csv.Error as error:
        yield line, f"not CSV ({error})"


def _header(names: list[str]) -> str:
    missing = [name for name in ("prompt", "answer") if name not in names]
    if missing:
        return f"the header has no column {' and no column '.join(missing)}"
    if len(names) > MOST_LABELS:
        return f"the header has more than {MOST_LABELS} columns"
    double = sorted({name for name in names if names.count(name) > 1})
    return f"the header names {double[0]!r} twice" if double else ""


def _jsonl(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    # Only "\n" ends a line of JSON; splitlines() would also cut at U+2028 inside a string.
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except (ValueError, RecursionError) as error:
            yield line, f"not JSON ({_reason(error)})"
            continue
        yield line, row if isinstance(row, dict) else "not an object with prompt and answer"


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return getattr(error, "msg", "a number of too many digits")


def _prompt(row: dict[str, Any]) -> TaskPrompt | str:
    """The prompt of a row, or what is wrong with it."""
    for name in ("prompt", "answer"):
        trouble = _trouble(row, name)
        if trouble:
            return trouble
    foil = row.get("foil") or ""
    if not isinstance(foil, str):
        return "the foil is not text"
    if foil == row["answer"]:
        return "the foil is the answer"
    if trouble := _unfit(foil, "foil"):
        return trouble
    labels = _labels(row)
    if len(labels) > MOST_LABELS:
        return f"there are more than {MOST_LABELS} labels"
    return TaskPrompt(row["prompt"], row["answer"], foil, labels)


def _trouble(row: dict[str, Any], name: str) -> str:
    """What is wrong with a text that must be there; empty where nothing is."""
    if name not in row:
        return f"there is no {name}"
    if not isinstance(row[name], str):
        return f"the {name} is not text"
    if not row[name]:
        return f"the {name} is empty"
    return _unfit(row[name], name)


def _unfit(text: str, name: str) -> str:
    """What is wrong with a text whatever it says; empty where nothing is."""
    if _whole(text) != text:
        return f"the {name} holds half a character"
    long = len(text) > MOST_TEXT
    return f"the {name} has more than {MOST_TEXT} characters" if long else ""


def _labels(row: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    given = row.get("labels")
    found = (
        {str(key): str(value) for key, value in given.items()} if isinstance(given, dict) else {}
    )
    for key, value in row.items():
        if key not in ("prompt", "answer", "foil", "labels") and value not in ("", None):
            found[key] = str(value)
    return tuple((_whole(key), _whole(value)) for key, value in found.items())


def _whole(text: str) -> str:
    """A text without halves of characters: JSON can hold lone surrogates, UTF-8 can't."""
    return text.encode("utf-8", "replace").decode()
