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
_SHOWN = 20


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


def parse(data: bytes, kind: str, name: str = "own") -> Suite:
    """Read a suite from bytes of a file of ``kind`` "csv" or "jsonl" in UTF-8.

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
        if len(prompts) > MOST_ROWS:
            problems.append(f"Line {line}: more than {MOST_ROWS} prompts.")
            break
    if problems:
        more = f" And {len(problems) - _SHOWN} more lines." if len(problems) > _SHOWN else ""
        raise SpecError(" ".join(problems[:_SHOWN]) + more, "Mend these lines; nothing was run.")
    if not prompts:
        raise SpecError("The file holds no prompts.", "Give each a line with prompt and answer.")
    return Suite(name, name, tuple(prompts))


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
            yield line, f"not JSON ({getattr(error, 'msg', 'nested too deeply')})"
            continue
        yield line, row if isinstance(row, dict) else "not an object with prompt and answer"


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
    return TaskPrompt(row["prompt"], row["answer"], foil, _labels(row))


def _trouble(row: dict[str, Any], name: str) -> str:
    """What is wrong with a text that must be there; empty where nothing is."""
    if name not in row:
        return f"there is no {name}"
    if not isinstance(row[name], str):
        return f"the {name} is not text"
    if not row[name]:
        return f"the {name} is empty"
    long = len(row[name]) > MOST_TEXT
    return f"the {name} has more than {MOST_TEXT} characters" if long else ""


def _labels(row: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    given = row.get("labels")
    found = (
        {str(key): str(value) for key, value in given.items()} if isinstance(given, dict) else {}
    )
    for key, value in row.items():
        if key not in ("prompt", "answer", "foil", "labels") and value not in ("", None):
            found[key] = str(value)
    return tuple(found.items())
