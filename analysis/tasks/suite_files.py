"""Suites from files: CSV with a header, or JSON lines.

Columns or keys: ``prompt`` and ``answer``, optionally ``foil``; all others are labels. An
answer is used exactly as written: a word that follows a space starts with the space.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from analysis.errors import SpecError
from analysis.tasks.suites import Suite, TaskPrompt

MAX_ROWS, MAX_BYTES, MAX_TEXT = 100_000, 64 << 20, 20_000
#: Most labels of one prompt; a file with more columns is hardly a suite.
MAX_LABELS = 100
#: Bad lines that an error lists, and bad lines after which reading stops.
_LISTED, _MAX_PROBLEMS = 20, 1000


def read(path: Path) -> Suite:
    """Read a suite from a ``.csv`` or ``.jsonl`` file.

    Raises:
        SpecError: If it can't be read; or with number and reason of each bad line, the first 20.
    """
    kind = path.suffix.lower()
    if kind not in (".csv", ".jsonl"):
        raise SpecError(f"{path.name} is neither .csv nor .jsonl.", "Save it as one of them.")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SpecError(f"{path.name} is over {MAX_BYTES >> 20} MiB.", "Split it.")
        data = path.read_bytes()
    except OSError as error:
        raise SpecError(f"{path} can't be read: {error.strerror}.", "Check its name.") from error
    return parse(data, kind.removeprefix("."), path.stem)


def as_lines(suite: Suite) -> str:
    """A suite as JSON lines that ``parse`` reads: prompts, answers, foils and labels."""
    return "\n".join(
        json.dumps({"prompt": p.text, "answer": p.answer, "foil": p.foil, "labels": dict(p.labels)})
        for p in suite.prompts
    )


def parse(data: bytes, kind: str, name: str = "own", most: int = MAX_ROWS) -> Suite:
    """Read a suite from the content of a file.

    Args:
        data: The file's content, in UTF-8.
        kind: "csv" or "jsonl".
        name: The suite's name.
        most: Most prompts.

    Raises:
        SpecError: With number and reason of each bad line, the first 20.
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
        if len(prompts) > most or len(problems) > _MAX_PROBLEMS:
            break
    if problems:
        raise SpecError(_summary(problems), "Correct these lines. Nothing was run.")
    if not prompts:
        raise SpecError("The file has no prompts.", "Write one line for each prompt and answer.")
    return Suite(name, name, tuple(prompts))


def _summary(problems: list[str]) -> str:
    """The first problems, and the number of the others."""
    more = len(problems) - _LISTED
    least = "at least " if len(problems) > _MAX_PROBLEMS else ""
    return " ".join(problems[:_LISTED]) + (f" And {least}{more} more lines." if more > 0 else "")


def _csv(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        names = [name.strip() for name in next(reader, [])]
        if problem := _header_problem(names):
            yield line, problem
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


def _header_problem(names: list[str]) -> str:
    """What is wrong with a header; empty if it is right."""
    missing = [name for name in ("prompt", "answer") if name not in names]
    if missing:
        return f"the header has no column {' and no column '.join(missing)}"
    if len(names) > MAX_LABELS:
        return f"the header has more than {MAX_LABELS} columns"
    double = sorted({name for name in names if names.count(name) > 1})
    return f"the header names {double[0]!r} twice" if double else ""


def _jsonl(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    # Only "\n" ends a line of JSON; splitlines() would also split at U+2028 inside a string.
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
        if problem := _missing_text(row, name):
            return problem
    foil = row.get("foil") or ""
    if not isinstance(foil, str):
        return "the foil is not text"
    if foil == row["answer"]:
        return "the foil equals the answer"
    if problem := _bad_text(foil, "foil"):
        return problem
    labels = _labels(row)
    if len(labels) > MAX_LABELS:
        return f"there are more than {MAX_LABELS} labels"
    return TaskPrompt(row["prompt"], row["answer"], foil, labels)


def _missing_text(row: dict[str, Any], name: str) -> str:
    """What is wrong with a required text; empty if it is right."""
    if name not in row:
        return f"there is no {name}"
    if not isinstance(row[name], str):
        return f"the {name} is not text"
    if not row[name]:
        return f"the {name} is empty"
    return _bad_text(row[name], name)


def _bad_text(text: str, name: str) -> str:
    """What is wrong with any text; empty if it is right."""
    if _valid(text) != text:
        return f"the {name} has half of a surrogate pair"
    long = len(text) > MAX_TEXT
    return f"the {name} has more than {MAX_TEXT} characters" if long else ""


def _labels(row: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    given = row.get("labels")
    found = (
        {str(key): str(value) for key, value in given.items()} if isinstance(given, dict) else {}
    )
    for key, value in row.items():
        if key not in ("prompt", "answer", "foil", "labels") and value not in ("", None):
            found[key] = str(value)
    return tuple((_valid(key), _valid(value)) for key, value in found.items())


def _valid(text: str) -> str:
    """The text with lone surrogates replaced: JSON can hold them, UTF-8 can't."""
    return text.encode("utf-8", "replace").decode()
